"""What a worker remembers of the result cache, so that a repeat is answered without looking it up.

It is believed only as far as it can be checked: which audio is in which bytes never changes, and
whether a transcript is still kept, and the same, is seen by the commit that sends it again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from sys import getsizeof

from sensestream_common.contract.identity import checksum
from sensestream_common.contract.transcript import Segments, Transcript
from sensestream_common.lru_cache import LruCache

__all__ = ["CachedTranscript", "LocalCache"]

_ALIASES = 8192  # two MB
_TRANSCRIPTS = 16 << 20  # bytes, of all transcripts together
_OVERHEAD = 1000  # bytes of a transcript beside its text and its segments
# Bytes of JSON of one that is sent without a look: Redis reads it through for each repeat.
_LONGEST = 32 << 10


@dataclass(frozen=True, slots=True)
class CachedTranscript:
    """A transcript, and by what Redis can tell that it keeps the same one."""

    transcript: Transcript
    checksum: str
    short: bool  # enough to be sent without having been looked up


class LocalCache:
    """Aliases and transcripts, the least recently used forgotten first."""

    def __init__(self) -> None:
        self._aliases: LruCache[str, str] = LruCache(_ALIASES)
        self._known: LruCache[str, CachedTranscript] = LruCache(_TRANSCRIPTS)

    def audio(self, digest: str) -> str:
        """The identity of the audio in the bytes with this digest; empty where not remembered."""
        return self._aliases.get(digest) or ""

    def learn_audio(self, digest: str, audio: str) -> None:
        self._aliases.put(digest, audio)

    def __contains__(self, identity: str) -> bool:
        return identity in self._known

    def transcript(self, identity: str) -> CachedTranscript | None:
        """What was kept under this identity when it was last seen."""
        return self._known.get(identity)

    def learn_transcript(self, identity: str, transcript: Transcript, value: bytes) -> None:
        """`value` is what Redis keeps of it."""
        segments = Segments(transcript.segments).light()
        known = CachedTranscript(
            replace(transcript, segments=segments), checksum(value), len(value) <= _LONGEST
        )
        size = _OVERHEAD + sum(map(getsizeof, (transcript.text, segments.json)))
        self._known.put(identity, known, size)

    def forget(self, identity: str) -> None:
        self._known.evict(identity)
