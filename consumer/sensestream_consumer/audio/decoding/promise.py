"""How much of a file is missing, by the sizes that its container states."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["missing_bytes"]

_MAX_BOXES = 100_000
_SEGMENT = b"\x18\x53\x80\x67"


def missing_bytes(view: SeekableView, demuxer: str) -> int:
    """Return how many bytes the container promises beyond the end of the file, 0 if it cannot tell.

    Args:
        view: the recording.
        demuxer: FFmpeg's name for its container.
    """
    end = {"mov": _end_of_boxes, "matroska": _end_of_segment, "avi": _end_of_riff}.get(demuxer)
    return max(0, end(view) - view.size) if end else 0


def _end_of_boxes(view: SeekableView) -> int:
    at = 0
    for _ in range(_MAX_BOXES):
        head = _read(view, at, 16)
        if len(head) < 8:
            break
        size = int.from_bytes(head[:4], "big")
        if size == 1:
            size = int.from_bytes(head[8:], "big")
        if size < 8 or not head[4:8].isalnum():
            break
        at += size
    return at


def _end_of_segment(view: SeekableView) -> int:
    head = _read(view, 0, 4096)
    size, width = _number(head[4:])
    at = 4 + width + size
    if head[at : at + 4] != _SEGMENT:
        return 0
    size, width = _number(head[at + 4 :])
    unknown = size == (1 << 7 * width) - 1
    return 0 if unknown else at + 4 + width + size


def _number(data: bytes) -> tuple[int, int]:
    """Return an EBML number and its width in bytes; (0, 0) for none."""
    if not data or not data[0]:
        return 0, 0
    width = 9 - data[0].bit_length()
    return int.from_bytes(data[:width], "big") & (1 << 7 * width) - 1, width


def _end_of_riff(view: SeekableView) -> int:
    return int.from_bytes(_read(view, 4, 4), "little") + 8


def _read(view: SeekableView, at: int, size: int) -> bytes:
    if at >= view.size:
        return b""
    view.seek(at)
    return view.read(size) or b""
