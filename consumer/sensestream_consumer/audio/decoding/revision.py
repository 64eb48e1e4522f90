"""The name of the way in which bytes become samples, for what is kept about bytes."""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import soundfile

__all__ = ["DECODE_REVISION", "decode_revision"]

# Raised when a fix changes the samples or the warnings that some bytes give.
DECODE_REVISION = 2


@cache
def decode_revision() -> str:
    """Return our revision, PyAV's version and libsndfile's, such as `2-18.1.0-1.2.2`.

    Letters, digits, dots and hyphens only: it becomes a part of keys. PyAV is not imported for it.
    """
    libraries = (version("av"), str(soundfile.__libsndfile_version__))
    return "-".join([str(DECODE_REVISION), *map(_plain, libraries)])


def _plain(version: str) -> str:
    return "".join(c if c.isascii() and (c.isalnum() or c == ".") else "." for c in version)
