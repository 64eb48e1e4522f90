"""A worker's local copy of parts of the result cache, for hits without a look-up.

It is trusted only as far as it can be checked. What this worker's decoders make of some bytes never
changes. Whether Redis still keeps the same transcript is checked by the commit that sends it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from sys import getsizeof

from sensestream_common.contract.alias import Alias
from sensestream_common.contract.identity import checksum
from sensestream_common.contract.transcript import Segments, Transcript
from sensestream_common.lru_cache import LruCache

__all__ = ["CachedTranscript", "LocalCache"]

_ALIASES = 8192  # two MB; one with warnings counts as several
_TRANSCRIPTS = 16 << 20  # bytes, of all transcripts together
_OVERHEAD = 1000  # bytes of a transcript beside its text and its segments
# Bytes of JSON of one that is sent without a look-up: Redis hashes it for each hit.
_LONGEST = 32 << 10


@dataclass(frozen=True, slots=True)
class CachedTranscript:
    """A transcript, and the SHA-1 by which Redis can tell that it keeps the same one."""

    transcript: Transcript
    checksum: str
    short: bool  # enough to be sent without a look-up


class LocalCache:
    """Aliases and transcripts; the least recently used are evicted first."""

    def __init__(self) -> None:
        self._aliases: LruCache[str, Alias] = LruCache(_ALIASES)
        self._transcripts: LruCache[str, CachedTranscript] = LruCache(_TRANSCRIPTS)

    def __contains__(self, identity: str) -> bool:
        return identity in self._transcripts

    def alias(self, digest: str) -> Alias | None:
        """The alias of the bytes with this digest; `None` where it is unknown."""
        return self._aliases.get(digest)

    def put_alias(self, digest: str, alias: Alias) -> None:
        """Keep the alias of the bytes with this digest."""
        size = 1 + sum(2 + len(each.message) // 256 for each in alias.warnings)
        self._aliases.put(digest, alias, size)

    def transcript(self, identity: str) -> CachedTranscript | None:
        """The transcript that was last seen under this identity."""
        return self._transcripts.get(identity)

    def put_transcript(self, identity: str, transcript: Transcript, value: bytes) -> None:
        """Keep a transcript; `value` is the JSON that Redis keeps of it."""
        segments = Segments(transcript.segments).light()
        cached = CachedTranscript(
            replace(transcript, segments=segments), checksum(value), len(value) <= _LONGEST
        )
        size = _OVERHEAD + sum(map(getsizeof, (transcript.text, segments.json)))
        self._transcripts.put(identity, cached, size)

    def evict(self, identity: str) -> None:
        """Drop a transcript; nothing where it is not kept."""
        self._transcripts.evict(identity)
