"""The identity of a result in the cache: the same for all who store it or look it up."""

from __future__ import annotations

from hashlib import sha1, sha256

__all__ = ["checksum", "is_identity", "result_identity"]

_HEX = frozenset(b"0123456789abcdef")


def result_identity(audio: str, recogniser: str, language: str, itn: bool) -> str:
    """The identity of a result, in hex.

    `audio` is the identity of the decoded samples, `recogniser` the fingerprint of the model that
    transcribes them (`{name}:recogniser`), `language` the requested one.
    """
    parts = (audio, recogniser, language, "1" if itn else "0")
    return sha256("\n".join(parts).encode()).hexdigest()


def is_identity(value: bytes) -> bool:
    """Whether a value of the cache can be the identity of some audio."""
    return len(value) == 64 and _HEX.issuperset(value)


def checksum(transcript: bytes) -> str:
    """The SHA-1 of a transcript as the cache keeps it, in hex.

    Scripts compute the same (`redis.sha1hex`) to check that it is still kept; it is no protection.
    """
    return sha1(transcript, usedforsecurity=False).hexdigest()
