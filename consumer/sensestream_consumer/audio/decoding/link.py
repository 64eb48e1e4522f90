"""Decode one recording of a file by the library that reads it best, or by the other one.

A library that fails, stops early or gives nothing is not believed while bytes are left: the other
one is asked, and the answer with more decoded audio counts.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensestream_common.contract.alias import AudioWarning
from sensestream_common.contract.errors import ErrorCode, RequestError

from sensestream_consumer.audio.decoding.containers.chunks import find_sound
from sensestream_consumer.audio.decoding.containers.links import is_multiplexed
from sensestream_consumer.audio.decoding.containers.promise import missing_bytes
from sensestream_consumer.audio.decoding.containers.sniff import begins_container
from sensestream_consumer.audio.decoding.flac_frames import read_flac_frames
from sensestream_consumer.audio.decoding.losses import losses
from sensestream_consumer.audio.decoding.result import Attempt, ReadReport
from sensestream_consumer.audio.decoding.through_pyav import read_pyav
from sensestream_consumer.audio.decoding.through_soundfile import DecoderFailed, read_soundfile

if TYPE_CHECKING:
    from sensestream_consumer.audio.decoding.containers.sniff import Container
    from sensestream_consumer.audio.decoding.mixdown import Mixdown
    from sensestream_consumer.audio.decoding.processor_time import ProcessorTime
    from sensestream_consumer.audio.decoding.result import Block
    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["decode_link"]

Reader = Callable[[ReadReport], Generator["Block", None, None]]


def decode_link(
    view: SeekableView, container: Container, mixdown: Mixdown, time: ProcessorTime
) -> list[AudioWarning]:
    """Decode the recording in `view` into `mixdown`, and return what its sender should know.

    Raises `DecoderFailed` if no library gets a sample out of a recording that should have some.
    """
    sound = find_sound(view) if container.libsndfile else None
    if sound and sound.patches:
        view = view.patched(sound.patches)
    link = _Link(view, container.demuxer, sound.end if sound else view.size, mixdown, time)
    best = link.read(libsndfile=container.libsndfile and not link.is_multiplexed())
    missing = sound.missing if sound else missing_bytes(view, container.demuxer)
    warnings = losses(best, missing / max(1, view.size), sound.unannounced if sound else 0)
    return [*warnings, *_other_behind(view, link.end)]


@dataclass(frozen=True, slots=True)
class _Link:
    view: SeekableView
    demuxer: str
    end: int  # of the sound, in bytes of the view
    mixdown: Mixdown
    time: ProcessorTime

    def is_multiplexed(self) -> bool:
        """Whether it is Ogg with several streams that play together; libsndfile stops at one."""
        return self.demuxer == "ogg" and is_multiplexed(self.view)

    def read(self, *, libsndfile: bool) -> Attempt:
        """Read through libsndfile first, if it reads the format, and else through FFmpeg."""
        if not libsndfile:
            return _with_sound(self._attempt(self._ffmpeg))
        first = None
        try:
            first = self._attempt(self._libsndfile)
        except DecoderFailed:
            self.time.check()
        if first and first.whole:
            return first
        return _with_sound(self._read_on(first), failed=first is None)

    def _read_on(self, first: Attempt | None) -> Attempt:
        """Return what another reader makes of it, or `first` if that is not better."""
        kept = self.mixdown.take_back()
        try:
            other = self._attempt_others()
        except (DecoderFailed, RequestError) as error:
            too_long = isinstance(error, RequestError) and error.code is ErrorCode.AUDIO_TOO_LONG
            self.time.check()
            if first is None or not first.decoded or too_long:
                raise
            self.mixdown.put_back(kept)
            return first
        if first is None:
            return other
        if other.is_better(first):
            return other.after(first)
        self.mixdown.put_back(kept)
        return first

    def _attempt_others(self) -> Attempt:
        if self.demuxer == "flac":
            try:
                return self._attempt(self._flac_frames)
            except DecoderFailed:
                self.time.check()
                self.mixdown.take_back()
        return self._attempt(self._ffmpeg)

    def _attempt(self, reader: Reader) -> Attempt:
        report, before = ReadReport(), copy(self.mixdown.taken)
        self.view.seek(0)
        self.view.furthest = 0
        blocks = reader(report)
        with closing(blocks):  # a refusal in the middle closes the decoder now and not some day
            for block in blocks:
                self.mixdown.add(block)
        self.time.check()  # a file that was stopped early looks as if it had ended
        taken = self.mixdown.taken
        return Attempt(
            report=report,
            begin=before.seconds,
            decoded=taken.decoded - before.decoded,
            silence=taken.silence - before.silence,
            holes=taken.holes,
            ignored=taken.ignored,
            unread=self.end - self.view.furthest,
        )

    def _libsndfile(self, report: ReadReport) -> Generator[Block, None, None]:
        return read_soundfile(self.view, report)

    def _ffmpeg(self, report: ReadReport) -> Generator[Block, None, None]:
        return read_pyav(self.view, self.demuxer, self.time.check, report)

    def _flac_frames(self, report: ReadReport) -> Generator[Block, None, None]:
        return read_flac_frames(self.view, self.time.check, report)


def _with_sound(attempt: Attempt, *, failed: bool = False) -> Attempt:
    """Return the attempt; `DecoderFailed` if nothing came out of what should be sound."""
    report = attempt.report
    if not attempt.decoded and (failed or report.promised or report.lost_bytes):
        raise DecoderFailed("not one sample could be decoded")
    return attempt


def _other_behind(view: SeekableView, end: int) -> list[AudioWarning]:
    """Return a warning if another kind of recording was joined to this one."""
    view.seek(end)
    if not begins_container(view.read(1024) or b""):
        return []
    message = (
        f"behind the recording, at byte {end}, another one begins in another format; it is not "
        "read: send it apart"
    )
    return [AudioWarning("joined_part_lost", message)]
