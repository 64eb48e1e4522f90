"""The threads that transcribe: recordings first, then pieces of those that are under way."""

from __future__ import annotations

import functools
import threading
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TaskRunner", "ThreadPool", "run_sequentially"]

T = TypeVar("T")


class TaskRunner(Protocol):
    """Runs tasks, each once and in whatever order, and returns their results in order."""

    def __call__(self, tasks: Sequence[Callable[[], T]]) -> list[T]: ...


def run_sequentially(tasks: Sequence[Callable[[], T]]) -> list[T]:
    """The results of the tasks, one after the other in this thread."""
    return [task() for task in tasks]


class ThreadPool:
    """A fixed number of threads, each of them doing one thing at a time.

    A thread that is free takes the recording that has waited longest. Only when none waits does
    it take a single task that another thread shares, and then looks again. So a long recording
    holds one thread for itself and borrows idle ones, for one piece at a time.
    """

    def __init__(self, size: int) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._shared: list[_Shared] = []
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"engine-{number}", daemon=True)
            for number in range(size)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run the work in a thread, in the order of submission; cancellable until it starts.

        Raises `RuntimeError` once the pool is closed.
        """
        future: Future[T] = Future()
        with self._changed:
            if self._closed:
                raise RuntimeError("the thread pool is closed")
            self._waiting.append((future, work))
            self._changed.notify()
        return future

    def run_shared(self, tasks: Sequence[Callable[[], T]]) -> list[T]:
        """As `run_sequentially`, with the help of idle threads; called from a thread of the pool.

        Tasks start in order. After the first failure no more are started, and of those that
        fail the error of the first in order is raised: the one that `run_sequentially` would raise.
        """
        if len(tasks) < 2:
            return run_sequentially(tasks)
        shared = _Shared(tasks, self._changed)
        with self._changed:
            self._shared.append(shared)
            self._changed.notify_all()
        while (task := shared.take()) is not None:
            task()
        with self._changed:
            self._shared.remove(shared)
            self._changed.wait_for(lambda: shared.running == 0)
        return shared.results()

    def close(self) -> None:
        """Cancel what waits, and return when what runs has ended."""
        with self._changed:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
            self._changed.notify_all()
        for future, _ in waiting:
            future.cancel()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Callable[[], None] | None:
        """What this thread does next; None once the thread pool is closed."""
        with self._changed:
            while True:
                if self._waiting:
                    return functools.partial(_run, *self._waiting.popleft())
                for shared in self._shared:
                    if (task := shared.take()) is not None:
                        return task
                if self._closed:
                    return None
                self._changed.wait()


class _Shared:
    """Tasks of one recording that several threads take from."""

    def __init__(self, tasks: Sequence[Callable[[], Any]], changed: threading.Condition) -> None:
        self.running = 0
        self._changed = changed  # its lock is the pool's, and may be taken twice
        self._tasks = tasks
        self._started = 0
        self._done: dict[int, Any] = {}
        self._failed: dict[int, BaseException] = {}

    def take(self) -> Callable[[], None] | None:
        """The next task, which counts as running from now on; None when there is none to start."""
        with self._changed:
            if self._failed or self._started == len(self._tasks):
                return None
            number = self._started
            self._started += 1
            self.running += 1
        return functools.partial(self._run, number)

    def results(self) -> list[Any]:
        """What the tasks returned, in order; raises the first failure."""
        if self._failed:
            raise self._failed[min(self._failed)]
        return [self._done[number] for number in range(len(self._tasks))]

    def _run(self, number: int) -> None:
        outcome: Any = None
        failure: BaseException | None = None
        try:
            outcome = self._tasks[number]()
        except BaseException as error:  # raised again where the recording is
            failure = error
        with self._changed:
            if failure is None:
                self._done[number] = outcome
            else:
                self._failed[number] = failure
            self.running -= 1
            self._changed.notify_all()


def _run(future: Future[Any], work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except BaseException as error:  # the caller's to handle
        future.set_exception(error)
