"""What a look at a pipeline found: one fact, how bad it is, and how to mend it.

`sensestream doctor` and the start of a worker both look, each at what concerns it, and say it in
the same words.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

__all__ = ["Finding", "Level", "fault", "fine", "warning", "worst"]


class Level(StrEnum):
    """A fault keeps requests from being answered; a warning says what may be lost, or soon is."""

    OK = "ok"
    WARNING = "warning"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Finding:
    """`seen` and `mend` are a sentence each; `mend` is empty where there is nothing to do."""

    check: str
    level: Level
    seen: str
    mend: str = ""

    def to_json(self) -> dict[str, str]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """The finding that `to_json` wrote; `ValueError` or `KeyError` for anything else."""
        mend = str(value.get("mend", ""))
        return cls(str(value["check"]), Level(value["level"]), str(value["seen"]), mend)


def fine(check: str, seen: str, mend: str = "") -> Finding:
    return Finding(check, Level.OK, seen, mend)


def warning(check: str, seen: str, mend: str) -> Finding:
    return Finding(check, Level.WARNING, seen, mend)


def fault(check: str, seen: str, mend: str) -> Finding:
    return Finding(check, Level.FAULT, seen, mend)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of all; `OK` where nothing was found."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
