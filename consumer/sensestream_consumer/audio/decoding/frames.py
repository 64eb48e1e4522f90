"""Find the first frame of MP3 or AAC in bytes that begin with something else.

Streams are cut anywhere, and tools put zeros, line ends and tags with a wrong size before the
first frame. One header of 4 bytes is met by chance every few kilobytes; a second one exactly where
the first says that its frame ends is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

__all__ = ["begins_with_frame", "find_frame"]

# kbit/s by bitrate index (ISO/IEC 11172-3 and 13818-3), for MPEG-1 layers 1 to 3 and MPEG-2/2.5
# layer 1 and layers 2 and 3; index 0 is "free", which tells no length.
_BITRATES = {
    (1, 1): (0, 32, 64, 96, 128, 160, 192, 224, 256, 288, 320, 352, 384, 416, 448),
    (1, 2): (0, 32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384),
    (1, 3): (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    (2, 1): (0, 32, 48, 56, 64, 80, 96, 112, 128, 144, 160, 176, 192, 224, 256),
    (2, 2): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (2, 3): (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}
# Hz by the header's version (3: MPEG-1, 2: MPEG-2, 0: MPEG-2.5) and its rate index.
_RATES = {3: (44_100, 48_000, 32_000), 2: (22_050, 24_000, 16_000), 0: (11_025, 12_000, 8_000)}


class _Header(NamedTuple):
    length: int  # bytes of the frame, its header among them
    stream: tuple[int, int, int]  # what all frames of a stream have in common


def begins_with_frame(data: bytes) -> str | None:
    """Return the demuxer for bytes that begin with two frames, or that are one frame.

    Where neither fits, what looks like the beginning of a frame is enough, but for other uses of
    the same bits: text in UTF-16, a picture, a frame of FLAC.
    """
    for demuxer, parse in _PARSERS:
        first = parse(data[:7])
        if first and (first.length == len(data) or _two_frames(data, 0, parse)):
            return demuxer
    if len(data) < 3 or data[0] != 0xFF or data[1] & 0xE0 != 0xE0 or data[1] in {0xF8, 0xFE}:
        return None
    # 0 is reserved in MPEG audio, and what an ADTS header has there.
    return "mp3" if data[1] & 0x06 else "aac"


def find_frame(data: bytes) -> tuple[int, str] | None:
    """Return where in `data` two frames follow each other, and the demuxer that reads them."""
    at = data.find(b"\xff")
    while at >= 0:
        for demuxer, parse in _PARSERS:
            if _two_frames(data, at, parse):
                return at, demuxer
        at = data.find(b"\xff", at + 1)
    return None


def _two_frames(data: bytes, at: int, parse: Callable[[bytes], _Header | None]) -> bool:
    first = parse(data[at : at + 7])
    if first is None:
        return False
    second = parse(data[at + first.length : at + first.length + 7])
    return second is not None and second.stream == first.stream


def _mpeg(head: bytes) -> _Header | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    version, layer = head[1] >> 3 & 3, 4 - (head[1] >> 1 & 3)
    bitrate, rate = head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or layer == 4 or bitrate in {0, 15} or rate == 3 or head[3] & 3 == 2:
        return None
    kilobits = _BITRATES[1 if version == 3 else 2, layer][bitrate]
    hertz, padding = _RATES[version][rate], head[2] >> 1 & 1
    if layer == 1:
        length = (12_000 * kilobits // hertz + padding) * 4
    else:
        samples = 72_000 if layer == 3 and version != 3 else 144_000
        length = samples * kilobits // hertz + padding
    return _Header(length, (version, layer, rate))


def _adts(head: bytes) -> _Header | None:
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0:
        return None
    rate = head[2] >> 2 & 15
    length = (head[3] & 3) << 11 | head[4] << 3 | head[5] >> 5
    if rate > 12 or length < 7:
        return None
    channels = (head[2] & 1) << 2 | head[3] >> 6
    return _Header(length, (head[2] >> 6, rate, channels))


_PARSERS: tuple[tuple[str, Callable[[bytes], _Header | None]], ...] = (
    ("mp3", _mpeg),
    ("aac", _adts),
)
