"""Recordings that were joined by writing one file behind the other (`cat a.wav b.wav`).

Libraries read the first of them, or take the header of the second for sound. Here each is found by
the bytes that it begins with, so that each can be decoded on its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, BinaryIO, cast

from sensestream_common.contract.errors import ErrorCode, RequestError

if TYPE_CHECKING:
    from sensestream_consumer.audio.decoding.window import SeekableView

__all__ = ["find_links", "is_multiplexed"]

_SEARCH = 1024 * 1024  # bytes looked through at once
_LONGEST = 80  # bytes that a beginning takes at most
_MAX_LINKS = 10_000
_MAX_BOXES = 1_000_000

# By FFmpeg's name of the format: some bytes of the beginning that are quickly found, how far behind
# the beginning they are, and the whole of it, long enough not to be met by chance.
_BEGINNINGS = {
    demuxer: (anchor, behind, re.compile(pattern, re.DOTALL))
    for demuxer, anchor, behind, pattern in (
        ("wav", b"WAVE", 8, rb"(RI(FF|FX)|RF64|BW64).{4}WAVE[a-zA-Z][a-zA-Z0-9 ]{3}"),
        ("w64", b"riff\x2e\x91\xcf\x11", 0, rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"),
        ("aiff", b"AIF", 8, rb"FORM.{4}AIF[FC](COMM|FVER|MARK|NAME|ANNO|COMT|SSND)"),
        ("caf", b"caff\0\x01", 0, rb"caff\0\x01\0\0desc\0\0\0\0\0\0\0\x20"),
        ("au", b".snd\0\0", 0, rb"\.snd\0\0.{6}\0\0\0[\x01-\x1b]\0.{3}\0\0\0[\x01-\x40]"),
        ("flac", b"fLaC", 0, rb"fLaC[\0\x80]\0\0\x22"),
        ("amr", b"#!AMR", 0, rb"#!AMR(-WB)?\n"),
        ("matroska", b"\x1a\x45\xdf\xa3", 0, rb".{5,52}?\x42\x82(\x84webm|\x88matroska)"),
        ("flv", b"FLV\x01", 0, rb"FLV\x01[\x01\x04\x05]\0\0\0\x09\0\0\0\0"),
        ("avi", b"AVI LIST", 8, rb"RIFF.{4}AVI LIST"),
        ("nistsphere", b"NIST_1A\n", 0, rb"NIST_1A\n *\d+\n"),
        ("asf", b"\x30\x26\xb2\x75", 0, rb".{4}\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c"),
    )
}  # fmt: skip


def find_links(
    file: BinaryIO, start: int, size: int, demuxer: str, check_time: Callable[[], None]
) -> list[tuple[int, int]]:
    """Return where each of the joined recordings begins and ends, in order.

    Args:
        file: the file, `size` bytes long.
        start: where the first recording begins.
        size: where the last one ends.
        demuxer: FFmpeg's name for their format.
        check_time: raises when decoding takes too long.
    """
    if demuxer == "ogg":
        begins = _ogg(file, start, size, check_time)
    elif demuxer == "mov":
        begins = _mov(file, start, size, check_time)
    elif demuxer in _BEGINNINGS:
        begins = _by_bytes(file, start, demuxer, check_time)
    else:
        return [(start, size)]
    starts = [start]
    for begin in begins:
        starts.append(begin)
        if len(starts) > _MAX_LINKS:
            message = f"the audio is made of more than {_MAX_LINKS} joined recordings"
            raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
    return list(zip(starts, [*starts[1:], size], strict=True))


def _by_bytes(
    file: BinaryIO, start: int, demuxer: str, check_time: Callable[[], None]
) -> Iterator[int]:
    anchor, behind, beginning = _BEGINNINGS[demuxer]
    at = start + 1
    while True:
        check_time()
        file.seek(at)
        data = file.read(_SEARCH + _LONGEST)
        found = data.find(anchor, behind)
        while 0 <= found < _SEARCH + behind:
            if beginning.match(data, found - behind):
                yield at + found - behind
            found = data.find(anchor, found + 1)
        if len(data) < _SEARCH + _LONGEST:
            return
        at += _SEARCH


def _ogg(file: BinaryIO, start: int, size: int, check_time: Callable[[], None]) -> Iterator[int]:
    """Yield where pages that begin a stream come behind pages that do not.

    Streams that play together all begin before any of them goes on (RFC 3533).
    """
    goes_on = False
    for number, (at, flags) in enumerate(_ogg_pages(file, start, size)):
        if number % 1000 == 0:
            check_time()
        begins = bool(flags & 2)
        if begins and goes_on:
            yield at
        goes_on = not begins


def is_multiplexed(view: SeekableView) -> bool:
    """Tell whether an Ogg recording begins with several streams that play together."""
    pages = _ogg_pages(cast("BinaryIO", view), 0, min(view.size, _SEARCH))
    return [flags & 2 for _, flags in islice(pages, 2)] == [2, 2]


def _ogg_pages(file: BinaryIO, start: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield position and flags of each page; damaged stretches are passed over."""
    at = start
    while at < size:
        file.seek(at)
        head = file.read(27 + 255)
        if head[:5] == b"OggS\0" and len(head) >= 27:
            yield at, head[5]
            segments = head[26]
            at += 27 + segments + sum(head[27 : 27 + segments])
        else:
            at = _next(file, at + 1, b"OggS\0")


def _next(file: BinaryIO, at: int, name: bytes) -> int:
    """Return where `name` occurs next, or a place behind the end of the file."""
    while True:
        file.seek(at)
        data = file.read(_SEARCH)
        found = data.find(name)
        if found >= 0:
            return at + found
        if len(data) < _SEARCH:
            return at + len(data) + 1
        at += _SEARCH - len(name)


def _mov(file: BinaryIO, start: int, size: int, check_time: Callable[[], None]) -> Iterator[int]:
    """Yield each `ftyp` behind a whole film: one whose index (`moov`) has been there."""
    at, indexed = start, False
    for number in range(_MAX_BOXES):
        if number % 1000 == 0:
            check_time()
        file.seek(at)
        head = file.read(16)
        if len(head) < 8:
            return
        length, name = int.from_bytes(head[:4], "big"), head[4:8]
        if name == b"ftyp" and indexed:
            yield at
            indexed = False
        indexed = indexed or name == b"moov"
        if length == 1:
            length = int.from_bytes(head[8:], "big")
        if length < 8:
            return  # to the end of the file, or no box
        at += length
        if at >= size:
            return
