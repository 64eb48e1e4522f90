"""Files that appear whole or not at all, since others may be reading the ones they replace."""

from __future__ import annotations

import shutil
from pathlib import Path

__all__ = ["copy_into", "place"]


def place(beside: Path, target: Path) -> None:
    """Put a finished file of the same folder in the place of `target`."""
    beside.replace(target)


def copy_into(file: Path, folder: Path) -> None:
    """Copy a file into a folder, from any file system."""
    beside = folder / f".{file.name}.new"
    shutil.copyfile(file, beside)
    place(beside, folder / file.name)
