"""The checkout as the packaging tests see it: where it is, and what its pyproject files say."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = ("common", "producer", "consumer")


def pyproject(folder: str) -> dict[str, Any]:
    with (ROOT / folder / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def package(folder: str) -> Path:
    return ROOT / folder / f"sensestream_{folder}"
