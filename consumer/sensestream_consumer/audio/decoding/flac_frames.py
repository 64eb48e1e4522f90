"""Read what is left of a damaged FLAC, frame by frame.

libFLAC gives up at a damaged frame, and FFmpeg's parser loses the whole ones around it. Every frame
states where it belongs and has a checksum, so here each is found and decoded on its own.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from sensestream_consumer.audio.decoding.result import Block, ReadReport
from sensestream_consumer.audio.decoding.through_pyav import pyav, samples_of
from sensestream_consumer.audio.decoding.through_soundfile import DecoderFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["read_flac_frames"]

_SEARCH = 1024 * 1024  # bytes looked through at once
_LONGEST_HEADER = 16  # bytes
_LONGEST_FRAME = 4 * 1024 * 1024  # bytes; eight channels of 65535 samples of 32 bits take half
_SYNC = re.compile(rb"\xff[\xf8\xf9]")


@dataclass(frozen=True, slots=True)
class _Stream:
    info: bytes  # STREAMINFO, 34 bytes
    first: int  # where frames may begin

    @property
    def rate(self) -> int:
        return int.from_bytes(self.info[10:13], "big") >> 4

    @property
    def block(self) -> int:
        return int.from_bytes(self.info[:2], "big")

    @property
    def total(self) -> int:
        return int.from_bytes(self.info[13:18], "big") & (1 << 36) - 1


def read_flac_frames(
    file: SeekableView, check_time: Callable[[], None], report: ReadReport
) -> Generator[Block, None, None]:
    """Yield the blocks of all frames whose checksum is right, each at its own time.

    Args:
        file: the recording.
        check_time: called for every frame; raises when decoding takes too long.
        report: told how many frames are damaged.

    Raises `DecoderFailed` if there is not one.
    """
    av, _ = pyav()
    stream = _stream(file)
    decoder = av.CodecContext.create("flac", "r")
    decoder.extradata = stream.info
    decoder.thread_count = 1
    decoder.options = {"err_detect": "crccheck+explode"}
    done = 0
    for position, data in _frames(file, stream):
        check_time()
        try:
            frames = decoder.decode(av.Packet(data))
        except (av.FFmpegError, ValueError):
            report.damaged += 1
            continue
        for frame in frames:
            done += frame.samples
            yield Block(samples_of(frame), frame.sample_rate, position / frame.sample_rate)
    if not done:
        raise DecoderFailed("it has no frame whose checksum is right")


def _stream(file: SeekableView) -> _Stream:
    file.seek(0)
    head = file.read(42) or b""
    stream = _Stream(head[8:], 42)
    if len(head) < 42 or head[4] & 0x7F or not stream.rate:
        raise DecoderFailed("its first block is not STREAMINFO")
    return stream


def _frames(file: SeekableView, stream: _Stream) -> Iterator[tuple[int, bytes]]:
    """Yield the first sample and the bytes of each frame, up to the next one's header."""
    last: tuple[int, int] | None = None
    for at, position in _headers(file, stream):
        if last and position <= last[0]:
            continue  # a header by chance: frames do not go back
        if last:
            yield last[0], _between(file, last[1], at)
        last = position, at
    if last:
        yield last[0], _between(file, last[1], file.size)


def _between(file: SeekableView, first: int, last: int) -> bytes:
    file.seek(first)
    return file.read(min(last - first, _LONGEST_FRAME)) or b""


def _headers(file: SeekableView, stream: _Stream) -> Iterator[tuple[int, int]]:
    """Yield where each header with a right checksum is, and its frame's first sample."""
    at = stream.first
    while at < file.size:
        data = _between(file, at, min(file.size, at + _SEARCH + _LONGEST_HEADER))
        for match in _SYNC.finditer(data, 0, min(len(data), _SEARCH + 1)):
            position = _position(data[match.start() : match.start() + _LONGEST_HEADER], stream)
            if match.start() < _SEARCH and position is not None:
                yield at + match.start(), position
        at += _SEARCH


def _position(head: bytes, stream: _Stream) -> int | None:
    """Return the first sample of a frame by its header (RFC 9639, 9.1); None if it is none."""
    if len(head) < 6 or head[2] >> 4 == 0 or head[2] & 15 == 15 or head[3] & 1:
        return None
    number, width = _coded_number(head[4:])
    size = (
        4 + width + {6: 1, 7: 2}.get(head[2] >> 4, 0) + {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    )
    if not width or len(head) <= size or _crc8(head[:size]) != head[size]:
        return None
    position = number if head[1] & 1 else number * stream.block
    return None if stream.total and position >= stream.total else position


def _coded_number(data: bytes) -> tuple[int, int]:
    """Return a number coded as UTF-8 codes characters, and its width; (0, 0) for none."""
    width = 8 - (data[0] ^ 0xFF).bit_length()
    if width == 0:
        return data[0], 1
    if width == 1 or len(data) < width or any(byte >> 6 != 2 for byte in data[1:width]):
        return 0, 0
    number = data[0] & (1 << 7 - width) - 1 if width < 7 else 0
    for byte in data[1:width]:
        number = number << 6 | byte & 0x3F
    return number, width


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc = _crc8_table()[crc ^ byte]
    return crc


@cache
def _crc8_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value << 1 ^ 0x07 if value & 0x80 else value << 1) & 0xFF
        table.append(value)
    return tuple(table)
