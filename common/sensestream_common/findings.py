"""What a look at a pipeline found: one fact, how bad it is, and how to fix it.

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
    """`observed` and `fix` are a sentence each; `fix` is empty where there is nothing to do."""

    check: str
    level: Level
    observed: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Finding:
        """The finding that `to_json` wrote; `ValueError` or `KeyError` for anything else."""
        fix = str(value.get("fix", ""))
        return cls(str(value["check"]), Level(value["level"]), str(value["observed"]), fix)


def fine(check: str, observed: str, fix: str = "") -> Finding:
    """A finding with nothing wrong."""
    return Finding(check, Level.OK, observed, fix)


def warning(check: str, observed: str, fix: str) -> Finding:
    """A finding of what may be lost, or soon is."""
    return Finding(check, Level.WARNING, observed, fix)


def fault(check: str, observed: str, fix: str) -> Finding:
    """A finding of what keeps requests from being answered."""
    return Finding(check, Level.FAULT, observed, fix)


def worst(findings: Iterable[Finding]) -> Level:
    """The worst level of all; `OK` where nothing was found."""
    order = list(Level)
    return max((finding.level for finding in findings), key=order.index, default=Level.OK)
