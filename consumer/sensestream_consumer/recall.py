"""What a worker remembers of the result cache, so that a repeat is answered without looking it up.

It is believed only as far as it can be checked: which audio is in which bytes never changes, and
whether a transcript is still kept, and the same, is seen by the commit that sends it again.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, replace
from hashlib import sha1

from sensestream_common.transcript import Segments, Transcript

__all__ = ["Known", "Recall", "checksum"]

_ALIASES = 8192  # two MB
_TRANSCRIPTS = 16 << 20  # bytes of JSON, of all transcripts together
_LONGEST = 256 << 10  # bytes of JSON, of one: Redis reads it through for each repeat


@dataclass(frozen=True, slots=True)
class Known:
    """A transcript, and by what Redis can tell that it keeps the same one."""

    transcript: Transcript
    checksum: str
    size: int


class Recall:
    """Aliases and transcripts, the least recently used forgotten first."""

    def __init__(self) -> None:
        self._aliases: OrderedDict[str, str] = OrderedDict()
        self._known: OrderedDict[str, Known] = OrderedDict()
        self._size = 0

    def audio(self, digest: str) -> str:
        """The identity of the audio in the bytes with this digest; empty where not remembered."""
        return self._aliases.get(digest, "")

    def learn_audio(self, digest: str, audio: str) -> None:
        self._aliases[digest] = audio
        self._aliases.move_to_end(digest)
        if len(self._aliases) > _ALIASES:
            self._aliases.popitem(last=False)

    def __contains__(self, identity: str) -> bool:
        return identity in self._known

    def transcript(self, identity: str) -> Known | None:
        """What was kept under this identity when it was last seen."""
        known = self._known.get(identity)
        if known is not None:
            self._known.move_to_end(identity)
        return known

    def learn_transcript(self, identity: str, transcript: Transcript, value: bytes) -> None:
        """`value` is what Redis keeps of it. Its segments are read again when somebody looks."""
        self.forget(identity)
        if len(value) > _LONGEST:
            return
        light = replace(transcript, segments=Segments.of_json(Segments(transcript.segments).json))
        self._known[identity] = Known(light, checksum(value), len(value))
        self._size += len(value)
        while self._size > _TRANSCRIPTS:
            _, oldest = self._known.popitem(last=False)
            self._size -= oldest.size

    def forget(self, identity: str) -> None:
        known = self._known.pop(identity, None)
        if known is not None:
            self._size -= known.size


def checksum(value: bytes) -> str:
    """As Redis's own scripts can make it (`redis.sha1hex`); it protects from nobody."""
    return sha1(value, usedforsecurity=False).hexdigest()
