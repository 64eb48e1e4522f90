"""Find the sound in a file of chunks (WAV, AIFF, CAF, Wave64, AU), whatever its header says.

A recorder writes the size of the sound when it closes the file. One that crashes, or writes into a
pipe, leaves a size of 0, or that of the last time it looked; libraries then believe there is
nothing, or less. Here the size is held against the file: bytes behind the sound that are no chunks
belong to it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sensestream_consumer.audio.decoding.containers.sniff import begins_container

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["Sound", "find_sound"]

_MAX_CHUNKS = 10_000  # a header of more is a trap
_TAIL = 1024 * 1024  # bytes before the end in which chunks behind the sound are looked for
_LEAST = 4096  # bytes behind the sound; fewer that are no chunks are padding or a tag
_LEAST_OF_ALL = 64  # bytes behind a sound of size 0; fewer are padding as well
_STREAMED = 0x7FFF_0000  # sizes from here on are those that writers into pipes put down

_KNOWN = (
    b"LIST", b"JUNK", b"junk", b"PAD ", b"FLLR", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl",
    b"fact", b"PEAK", b"iXML", b"axml", b"_PMX", b"afsp", b"cart", b"inst", b"note", b"DISP",
    b"acid", b"strc", b"minf", b"elm1", b"regn", b"umid", b"levl", b"chna", b"MARK", b"COMT",
    b"NAME", b"AUTH", b"ANNO", b"INST", b"MIDI", b"APPL", b"AESD", b"(c) ", b"SAXL",
)  # fmt: skip
_KNOWN_AT = re.compile(b"|".join(map(re.escape, _KNOWN)))
_TAGS = (b"TAG", b"ID3", b"APETAGEX", b"LYRICS", b"<?xml")


@dataclass(frozen=True, slots=True)
class Sound:
    """The bytes of the sound.

    Attributes:
        end: the byte behind the last one of it in the file.
        missing: how many bytes the header promises beyond the end of the file.
        unannounced: how many bytes of sound lie behind the promised ones.
        patches: what to correct in the header, by position.
    """

    end: int
    missing: int = 0
    unannounced: int = 0
    patches: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Layout:
    first: int  # the first chunk
    head: int  # bytes of a chunk's header
    size: Callable[[bytes], int]  # a chunk's size without its header, from the header
    pack: Callable[[int], bytes]  # the reverse
    pad: int  # chunks begin at multiples of it
    sound: bytes  # the name of the chunk with the sound
    inner: int = 0  # bytes of the sound's chunk before the sound itself


def _fields(form: str, extra: int = 0) -> tuple[Callable[[bytes], int], Callable[[int], bytes]]:
    wide = struct.calcsize(form)

    def size(head: bytes) -> int:
        return int(struct.unpack(form, head[-wide:])[0]) - extra

    def pack(value: int) -> bytes:
        return struct.pack(form, min(value + extra, (1 << 8 * wide - 1) * 2 - 1))

    return size, pack


_WAV = _Layout(12, 8, *_fields("<I"), pad=2, sound=b"data")
_RIFX = _Layout(12, 8, *_fields(">I"), pad=2, sound=b"data")
_AIFF = _Layout(12, 8, *_fields(">I"), pad=2, sound=b"SSND", inner=8)
_CAF = _Layout(8, 12, *_fields(">Q"), pad=1, sound=b"data", inner=4)
_W64 = _Layout(40, 24, *_fields("<Q", extra=24), pad=8, sound=b"data")


def _layout(head: bytes) -> _Layout | None:
    if head[:4] in {b"RIFF", b"RF64", b"BW64"} and head[8:12] == b"WAVE":
        return _WAV
    if head[:4] == b"RIFX" and head[8:12] == b"WAVE":
        return _RIFX
    if head[:4] == b"FORM" and head[8:12] in {b"AIFF", b"AIFC"}:
        return _AIFF
    return {b"caff": _CAF, b"riff": _W64}.get(head[:4])


def find_sound(view: SeekableView) -> Sound | None:
    """Find the sound; None if the file has no chunks, or none with sound."""
    head = _read(view, 0, 12)
    layout = _layout(head)
    if layout is None:
        return _find_sound_of_au(view, head) if head[:4] == b".snd" else None
    long_sizes: dict[bytes, int] = {}
    for at, name, size in _chunks(view, layout.first, layout):
        if name == b"ds64":
            body = _read(view, at + layout.head, 16)
            if len(body) == 16:
                long_sizes[b"data"] = struct.unpack("<Q", body[8:])[0]
        elif name == layout.sound:
            if size == 0xFFFF_FFFF:
                size = long_sizes.get(name, size)
            return _measured(view, at, size, layout)
    return None


def _find_sound_of_au(view: SeekableView, head: bytes) -> Sound | None:
    """Find the sound behind a header of a fixed form, to which nothing is added but tags."""
    if len(head) < 12:
        return None
    start, declared = struct.unpack(">II", head[4:])
    rest = max(0, view.size - start)
    if declared >= rest:
        return Sound(view.size, missing=0 if declared >= _STREAMED else declared - rest)
    first = _read(view, start + declared, 4096)
    left = rest - declared
    if declared and (left < _LEAST or first.startswith(_TAGS) or not any(first)):
        return Sound(start + declared)
    return Sound(view.size, 0, left if declared else 0, {8: b"\xff\xff\xff\xff"})


def _measured(view: SeekableView, at: int, size: int, layout: _Layout) -> Sound:
    start = at + layout.head + layout.inner
    declared = max(0, size - layout.inner)
    rest = max(0, view.size - start)
    if declared > rest:
        streamed = declared >= _STREAMED or size >= 1 << 63
        return Sound(view.size, missing=0 if streamed else declared - rest)
    end = start + declared
    if rest == declared or not _goes_on(view, end, declared, layout):
        return Sound(end)
    true_end = _before_last_chunks(view, end, layout)
    unannounced = true_end - end
    if not unannounced:
        return Sound(end)
    patches = {at + layout.head - len(layout.pack(0)): layout.pack(true_end - at - layout.head)}
    patches |= _outer_patches(view, layout, at, true_end)
    return Sound(true_end, 0, unannounced if declared else 0, patches)


def _goes_on(view: SeekableView, end: int, declared: int, layout: _Layout) -> bool:
    """Tell whether the bytes from `end` on are more sound."""
    left = view.size - end
    if left < (_LEAST if declared else _LEAST_OF_ALL):
        return False
    head = _read(view, end, 4096)
    if head.startswith(_TAGS) or begins_container(head) or (declared and not any(head)):
        return False
    return not any(_are_chunks(view, end + pad, layout) for pad in range(layout.pad))


def _are_chunks(view: SeekableView, at: int, layout: _Layout) -> bool:
    name = _read(view, at, 4)
    if name in _KNOWN:
        return True
    end = at
    for start, name, size in _chunks(view, at, layout):
        if start == at and size > view.size - at:
            return False
        if not all(0x20 <= byte < 0x7F for byte in name):
            return False
        end = start + layout.head + size
    return end > at and abs(view.size - end) < layout.head


def _before_last_chunks(view: SeekableView, end: int, layout: _Layout) -> int:
    """Return where chunks at the very end of the file begin, or the file's end."""
    first = max(end, view.size - _TAIL)
    tail = _read(view, first, _TAIL)
    for match in _KNOWN_AT.finditer(tail):
        at = first + match.start()
        if (at - layout.first) % layout.pad == 0 and _reach_the_end(view, at, layout):
            return at
    return view.size


def _reach_the_end(view: SeekableView, at: int, layout: _Layout) -> bool:
    end = at
    for start, _, size in _chunks(view, at, layout):
        end = start + layout.head + size
    return 0 <= end - view.size <= 1 or 0 <= view.size - end < layout.pad


def _outer_patches(view: SeekableView, layout: _Layout, at: int, end: int) -> dict[int, bytes]:
    """Return patches of the sizes that stand elsewhere than in the sound's own chunk."""
    if layout is _WAV and _read(view, 0, 4) in {b"RF64", b"BW64"}:
        return {0: b"RIFF", 4: layout.pack(end - 8)}
    if layout in (_WAV, _RIFX):
        return {4: layout.pack(end - 8)}
    if layout is _W64:
        return {16: struct.pack("<Q", end)}
    if layout is _AIFF:
        return {4: layout.pack(end - 8)} | _aiff_frames(view, layout, end - at - 16)
    return {}


def _aiff_frames(view: SeekableView, layout: _Layout, size: int) -> dict[int, bytes]:
    for at, name, _ in _chunks(view, layout.first, layout):
        body = _read(view, at + layout.head, 8)
        if name == b"COMM" and len(body) == 8:
            channels, _, bits = struct.unpack(">HIH", body)
            width = channels * ((bits + 7) // 8)
            return {at + layout.head + 2: struct.pack(">I", size // width)} if width else {}
    return {}


def _chunks(view: SeekableView, at: int, layout: _Layout) -> Iterator[tuple[int, bytes, int]]:
    """Yield position, name and size without header of each chunk from `at` on."""
    for _ in range(_MAX_CHUNKS):
        head = _read(view, at, layout.head)
        if len(head) < layout.head:
            return
        size = layout.size(head)
        if size < 0:
            return
        yield at, head[:4], size
        at += layout.head + size
        at += -(at - layout.first) % layout.pad


def _read(view: SeekableView, at: int, size: int) -> bytes:
    if at >= view.size:
        return b""
    view.seek(at)
    return view.read(size) or b""
