"""The time that each stage of a request takes: recorded where it happens, read once at the end.

    with timed(Stage.FETCH):
        ...

records a `StageTiming` of the request that the current task works on. The handler begins the list
and reads it when the request is answered: for its line in the log, the metrics and the spans. The
functions between pass nothing on, and outside a request nothing is recorded.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

__all__ = [
    "Stage",
    "StageTiming",
    "begin_timings",
    "now",
    "picked_up_at",
    "record",
    "seconds_by_stage",
    "timed",
    "timings",
]

now = time.monotonic_ns  # nanoseconds; add `time.time_ns() - now()` for the wall's clock


class Stage(StrEnum):
    """The stages of a request; a hit needs the first and the last of them at most."""

    FETCH = "fetch"  # reading and hashing the audio, with the pauses between tries
    DECODE = "decode"  # bytes to samples, and their identity
    FOLLOW = "follow"  # waiting for another request's transcription of the same recording
    QUEUE = "queue"  # waiting for a free thread of the engine
    ENGINE = "engine"  # features, waiting for others in a batch, the model, text
    COMMIT = "commit"  # acknowledging and publishing, until Redis answers


@dataclass(frozen=True, slots=True)
class StageTiming:
    """One passage through a stage, in nanoseconds of `now`."""

    stage: Stage
    began: int
    ended: int


_timings: ContextVar[list[StageTiming] | None] = ContextVar("timings", default=None)
_picked_up_at: ContextVar[int] = ContextVar("picked_up_at", default=0)


def begin_timings() -> None:
    """Record the stages of the current task's request from here on."""
    _timings.set([])
    _picked_up_at.set(now())


def picked_up_at() -> int:
    """When the current task's request was picked up, in nanoseconds of `now`."""
    return _picked_up_at.get()


def timings() -> list[StageTiming]:
    """The stages of the current task's request so far, in the order in which they ended."""
    return _timings.get() or []


def record(stage: Stage, began: int, ended: int) -> None:
    """Record a stage that was timed elsewhere, as by a thread."""
    recorded = _timings.get()
    if recorded is not None:
        recorded.append(StageTiming(stage, began, ended))


class timed:  # noqa: N801  (reads as what it is: a `with` statement's verb)
    """Records the time that its block takes, whether it succeeds or not."""

    __slots__ = ("_began", "_stage")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._began = 0

    def __enter__(self) -> Self:
        self._began = now()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        record(self._stage, self._began, now())


def seconds_by_stage(timings: Sequence[StageTiming]) -> dict[Stage, float]:
    """The seconds that each stage took in all: a request may pass through one twice."""
    seconds: dict[Stage, float] = {}
    for timing in timings:
        seconds[timing.stage] = seconds.get(timing.stage, 0.0) + (timing.ended - timing.began) / 1e9
    return seconds
