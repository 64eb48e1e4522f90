"""How long each stage of a request takes: noted where it happens, told once at the end.

    with stage(Stage.FETCH):
        ...

notes a lap of the request that the current task works on. The handler begins the list and reads
it when the request is answered: for its line in the log, for the metrics, for whatever else wants
to know. So nobody between hands a stopwatch on, and what happens outside a request is not noted.
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
    "began",
    "begin_timings",
    "note",
    "now",
    "seconds_by_stage",
    "stage",
    "timings",
]  # fmt: skip

now = time.monotonic_ns  # nanoseconds; add `time.time_ns() - now()` for the wall's clock


class Stage(StrEnum):
    """What a request passes through; a hit needs the first and the last of them at most."""

    FETCH = "fetch"  # reading and hashing what it refers to, with the pauses between tries
    DECODE = "decode"  # bytes to samples, and their identity
    FOLLOW = "follow"  # waiting for another's transcription of the same recording
    QUEUE = "queue"  # waiting for a free thread of the engine
    ENGINE = "engine"  # features, waiting for company in a batch, the model, text
    COMMIT = "commit"  # acknowledging and publishing, until Redis answers


@dataclass(frozen=True, slots=True)
class StageTiming:
    """One passage through a stage, in nanoseconds of `now`."""

    stage: Stage
    began: int
    ended: int


_laps: ContextVar[list[StageTiming] | None] = ContextVar("timings", default=None)
_began: ContextVar[int] = ContextVar("began", default=0)


def begin_timings() -> None:
    """Note the laps of the current task's request from here on."""
    _laps.set([])
    _began.set(now())


def began() -> int:
    """When the current task's request was picked up, in nanoseconds of `now`."""
    return _began.get()


def timings() -> list[StageTiming]:
    """Those of the current task's request so far, in the order they ended."""
    return _laps.get() or []


def note(stage: Stage, began: int, ended: int) -> None:
    """A lap whose ends were seen elsewhere, as by a thread."""
    noted = _laps.get()
    if noted is not None:
        noted.append(StageTiming(stage, began, ended))


class stage:  # noqa: N801  (reads as what it is: a `with` statement's verb)
    """Notes what its block takes, whether it succeeds or not."""

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
        note(self._stage, self._began, now())


def seconds_by_stage(timings: Sequence[StageTiming]) -> dict[Stage, float]:
    """What each stage of a request took: it may pass through one twice."""
    seconds: dict[Stage, float] = {}
    for lap in timings:
        seconds[lap.stage] = seconds.get(lap.stage, 0.0) + (lap.ended - lap.began) / 1e9
    return seconds
