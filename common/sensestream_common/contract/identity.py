"""Under which identity the cache knows a result: the same for the worker that stores it and for
whoever looks it up.
"""

from __future__ import annotations

from hashlib import sha1, sha256

__all__ = ["checksum", "is_identity", "result_identity"]

_HEX = frozenset(b"0123456789abcdef")


def result_identity(audio: str, recogniser: str, language: str, itn: bool) -> str:
    """The identity of a result, in hex.

    `audio` is the identity of the decoded samples, `recogniser` the fingerprint of what hears
    them (`{name}:recogniser`), `language` the one that is asked for.
    """
    parts = (audio, recogniser, language, "1" if itn else "0")
    return sha256("\n".join(parts).encode()).hexdigest()


def is_identity(value: bytes) -> bool:
    """Whether a value of the cache can be the identity of some audio."""
    return len(value) == 64 and _HEX.issuperset(value)


def checksum(transcript: bytes) -> str:
    """Of a transcript as it is kept, and as a script of Redis's can make it (`redis.sha1hex`): to
    tell whether it still is; it protects from nobody.
    """
    return sha1(transcript, usedforsecurity=False).hexdigest()
