"""How long somebody waits for an outcome."""

from __future__ import annotations

import asyncio
from types import TracebackType

from sensestream_common.contract.errors import WaitTimeout

__all__ = ["TimeLimit"]


class TimeLimit:
    """`with TimeLimit(request_id, seconds):` ends what takes longer with a `WaitTimeout`.

    As `asyncio.timeout` does, and `None` is no limit, but with no coroutine to enter and none to
    leave, which a repeat that is answered at once would notice.
    """

    __slots__ = ("_cancellations", "_late", "_request_id", "_seconds", "_task", "_timer")

    def __init__(self, request_id: str, seconds: float | None) -> None:
        self._request_id = request_id
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._late = False

    def __enter__(self) -> None:
        if self._seconds is None:
            return
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a time limit needs a task that it can end")
        self._task, self._cancellations = task, task.cancelling()
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._end)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # Somebody else may have cancelled it as well: then that is what ends it.
        if (
            self._late
            and self._task.uncancel() <= self._cancellations
            and kind is asyncio.CancelledError
        ):
            raise WaitTimeout(
                f"no outcome of {self._request_id!r} within {self._seconds} s; it may still come: "
                "wait again, or look at `sensestream status`"
            ) from None

    def _end(self) -> None:
        self._late = True
        self._task.cancel()
