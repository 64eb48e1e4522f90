"""An event loop in a thread of its own, for callers that have none.

The thread is a daemon: a program that forgets to close it ends all the same. Four hazards shape
this module:

1. Fork. The child has a copy of everything but the thread. It must not use, close or finalise that
   copy, because its sockets are the parent's: `inherited` guards every way in.
2. Close. Work that is handed to the loop after the order to stop would never run, and its caller
   would wait for ever: `_gate` orders the two.
3. Ctrl-C. A signal that arrives just before a thread begins to wait does not wake it: `_result`
   waits in slices.
4. Garbage collection. It closes clients and iterators in whichever thread it happens to run, the
   loop's own included, even one that holds `_gate`: the lock is re-entrant, and the loop's thread
   never waits for itself.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from concurrent.futures import CancelledError, Future
from contextlib import AbstractAsyncContextManager, suppress
from inspect import CORO_CREATED, getcoroutinestate
from typing import Any, TypeVar

from sensestream_common.contract.errors import SensestreamError

__all__ = ["LoopThread", "ThreadClosed"]

_GOODBYE = 5.0  # seconds that a close, or the end of an iterator, waits for the loop's side
_SLICE = 0.5  # seconds; Ctrl-C takes effect within one slice (hazard 3)
_END: Any = object()

T = TypeVar("T")


class ThreadClosed(SensestreamError):
    """The loop was closed before a call, or during one."""

    def __init__(self) -> None:
        super().__init__("the client is closed, or was closed during the call")


class LoopThread:
    """Runs coroutines while `resource`, an asynchronous context, is held open on its loop.

    The context is left when the thread is closed, on the loop that used it.
    """

    def __init__(self, resource: AbstractAsyncContextManager[Any], name: str) -> None:
        self._process = os.getpid()
        self._stop = asyncio.Event()
        self._gate = threading.RLock()  # hazards 2 and 4
        self._closing = False
        self._tasks: set[asyncio.Task[Any]] = set()  # of the callers; only the loop touches it
        ready: Future[asyncio.AbstractEventLoop] = Future()
        # The thread's frame refers to `resource`. A fork's child never unwinds that frame, so no
        # finaliser there writes to the parent's sockets (hazard 1).
        self._thread = threading.Thread(
            target=self._work, args=(resource, ready), name=name, daemon=True
        )
        self._thread.start()
        self._loop = ready.result()

    @property
    def inherited(self) -> bool:
        """Whether this is a fork's copy, without the thread."""
        return os.getpid() != self._process

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run `work` on the loop, and return its result.

        Any interruption of the caller (Ctrl-C) cancels `work`. Raises what `work` raises, and
        `ThreadClosed` when the thread is closed before or during the call.
        """
        future = self._start(work)
        try:
            return _result(future)
        except CancelledError:
            raise ThreadClosed from None
        except BaseException:
            future.cancel()  # without waiting; no effect where the error is the work's own
            raise

    def iterate(self, make: Callable[[], AsyncGenerator[T]]) -> Generator[T]:
        """Yield the items of the asynchronous generator that `make` returns.

        Ends with the generator, or when the thread is closed. Raises `SensestreamError` in a
        fork's child.
        """
        events = make()
        try:
            while True:
                self._check_process()
                try:
                    event = self.run(_next(events))
                except ThreadClosed:
                    return
                if event is _END:
                    return
                yield event
        finally:
            self._leave(events)

    def close(self) -> None:
        """Cancel running work, leave the resource and end the thread; no effect after a fork."""
        if self.inherited:
            return
        with self._gate:
            if not self._closing:
                self._closing = True
                self._loop.call_soon_threadsafe(self._stop.set)
        if threading.current_thread() is not self._thread:  # hazard 4
            self._thread.join(_GOODBYE)

    def _start(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        tracked = self._track(work)
        try:
            with self._gate:
                if not self._closing:
                    return asyncio.run_coroutine_threadsafe(tracked, self._loop)
        except BaseException:  # Ctrl-C: where the loop does not have it yet, it is never awaited
            if getcoroutinestate(tracked) == CORO_CREATED:
                with suppress(ValueError):  # it has just begun
                    tracked.close()
                    work.close()
            raise
        tracked.close()
        work.close()
        raise ThreadClosed

    async def _track(self, work: Coroutine[Any, Any, T]) -> T:
        if task := asyncio.current_task():
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await work

    def _check_process(self) -> None:
        if self.inherited:
            raise SensestreamError(
                f"this iterator was begun in process {self._process}, of which this one "
                f"({os.getpid()}) is a fork: begin it anew here"
            )

    def _leave(self, events: AsyncGenerator[Any]) -> None:
        if self.inherited:
            return
        with suppress(ThreadClosed, TimeoutError, CancelledError):
            future = self._start(_close(events))
            if threading.current_thread() is not self._thread:
                future.result(_GOODBYE)

    def _work(
        self,
        resource: AbstractAsyncContextManager[Any],
        ready: Future[asyncio.AbstractEventLoop],
    ) -> None:
        with asyncio.Runner() as runner:
            runner.run(self._hold(resource, ready))

    async def _hold(
        self,
        resource: AbstractAsyncContextManager[Any],
        ready: Future[asyncio.AbstractEventLoop],
    ) -> None:
        async with resource:
            ready.set_result(asyncio.get_running_loop())
            await self._stop.wait()
        # The resource has sent what it had and has ended the waits that it knows of. The tasks
        # that are left would never end.
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def _result(future: Future[T]) -> T:
    while True:
        try:
            return future.result(_SLICE)
        except TimeoutError:
            if future.done():  # the TimeoutError is the work's own, or the result has just come
                return future.result()


async def _next(events: AsyncGenerator[T]) -> T:
    return await anext(events, _END)


async def _close(events: AsyncGenerator[Any]) -> None:
    while True:
        try:
            return await events.aclose()
        except RuntimeError as error:
            if "already running" not in str(error):
                raise
        await asyncio.sleep(0)  # its last `anext` was cancelled and is about to end
