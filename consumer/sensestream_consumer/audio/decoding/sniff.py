"""Tell a file's container by its first bytes; names and media types may lie."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import BinaryIO

from sensestream_consumer.audio.decoding.foreign import name_of, piece_of
from sensestream_consumer.audio.decoding.frames import begins_with_frame, find_frame

__all__ = ["FORMATS", "Container", "Foreign", "begins_container", "sniff"]

FORMATS = (
    "WAV, BW64, W64, AIFF, AU, CAF, SPHERE, FLAC, OGG, OPUS, MP3, M4A/MP4/MOV, AAC, WebM/MKV, "
    "WMA, AVI, MPEG-TS, FLV, AC-3 and AMR"
)

_HEAD = 1024  # bytes that tell any container from the others
_MAX_TAGS = 16  # before the audio; a file of nothing but empty tags is none
_JUNK = 64 * 1024  # bytes before the recording that are passed over

# What a container begins with, FFmpeg's name for it, and whether libsndfile reads it whole.
# MP3 is not among libsndfile's: its decoder believes the frame count in the first header, and so
# drops all but the first of several joined recordings, gives up after one kilobyte of garbage, and
# writes its complaints to stderr.
_MAGICS = tuple(
    (re.compile(pattern, re.DOTALL), demuxer, libsndfile)
    for pattern, demuxer, libsndfile in (
        (rb"(RIFF|RIFX|RF64|BW64).{4}WAVE", "wav", True),
        (rb"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0", "w64", True),
        (rb"FORM.{4}AIF[FC]", "aiff", True),
        (rb"\.snd\0|dns\..\0", "au", True),
        (rb"caff\0[\1\2]", "caf", True),
        (rb"NIST_1A\n", "nistsphere", True),
        (rb"fLaC", "flac", True),
        (rb"OggS", "ogg", True),
        (rb"#!AMR", "amr", False),
        (rb"\x1a\x45\xdf\xa3", "matroska", False),
        (rb".{4}(ftyp|moov|mdat|wide|free|skip|pnot)", "mov", False),
        (rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c", "asf", False),
        (rb"RIFF.{4}AVI ", "avi", False),
        (rb"FLV\x01", "flv", False),
        (rb"\x0b\x77.{3}[\0-\x57]", "ac3", False),
        (rb"\x0b\x77.{3}[\x58-\x87]", "eac3", False),
        (rb".{0,203}?\x47.{187}\x47.{187}\x47.{187}\x47", "mpegts", False),
        (rb".{0,203}?\x47.{191}\x47.{191}\x47.{191}\x47", "mpegts", False),
    )
)
# What is looked for behind bytes that are nothing: long enough not to be met by chance.
_BEHIND_JUNK = re.compile(rb"RIFF(?s:.{4})WAVE|fLaC[\0\x80]\0\0\x22|OggS\0\x02(?s:.{20})\x01")


@dataclass(frozen=True, slots=True)
class Container:
    """A container and where it begins.

    Attributes:
        demuxer: FFmpeg's name for it.
        libsndfile: whether libsndfile reads it whole, and is to be tried first.
        offset: the byte where it begins, behind the tags put before it.
        junk: how many of the bytes before it belong to nothing.
    """

    demuxer: str
    libsndfile: bool
    offset: int = 0
    junk: int = 0


@dataclass(frozen=True, slots=True)
class Foreign:
    """A file that is no recording taken here: what it is, if that is known, and what helps."""

    name: str
    remedy: str


def begins_container(head: bytes) -> bool:
    """Tell whether bytes are the beginning of a container."""
    return len(head) > 64 and _container(head, 0) is not None


def sniff(file: BinaryIO) -> Container | Foreign:
    """Return the container in `file`, or the name of what is no recording."""
    offset = _behind_tags(file)
    head = _bytes(file, offset, _HEAD)
    container = _container(head, offset)
    if container:
        return container
    if demuxer := begins_with_frame(_bytes(file, offset, _JUNK)):
        return Container(demuxer, libsndfile=False, offset=offset)
    if foreign := name_of(head):
        return Foreign(*foreign)
    for at in sorted({0, offset}):  # a tag may be shorter than it says, or longer
        if found := _behind_junk(_bytes(file, at, _JUNK), at):
            tag = offset if found.offset >= offset else 0
            return replace(found, junk=found.offset - tag)
    if offset:  # a tag, and then what may be MP3 after all
        return Container("mp3", libsndfile=False, offset=offset)
    return Foreign(*_unknown(_bytes(file, 0, _JUNK)))


def _container(head: bytes, offset: int) -> Container | None:
    for pattern, demuxer, libsndfile in _MAGICS:
        if pattern.match(head):
            return Container(demuxer, libsndfile, offset)
    return None


def _behind_junk(data: bytes, start: int) -> Container | None:
    """Return the container that begins first behind the first byte of `data`, at `start`."""
    frame = find_frame(data)
    other = _BEHIND_JUNK.search(data)
    if other and (frame is None or other.start() < frame[0]):
        return _container(data[other.start() :][:_HEAD], start + other.start())
    return Container(frame[1], libsndfile=False, offset=start + frame[0]) if frame else None


def _unknown(start: bytes) -> tuple[str, str]:
    if piece := piece_of(start):
        return piece
    head = start[:8]
    name = f"in no format known here (it begins with {head.hex(' ')})"
    remedy = (
        "if it is samples without a header, `ffmpeg -f s16le -ar 16000 -ac 1 -i INPUT OUTPUT.wav` "
        "puts one in front"
    )
    return name, remedy


def _behind_tags(file: BinaryIO) -> int:
    """Return where the audio begins: ID3v2 and APE tags may stand before any of the formats."""
    offset = 0
    for _ in range(_MAX_TAGS):
        size = _tag_size(_bytes(file, offset, 32))
        if not size:
            break
        offset += size
    return offset


def _tag_size(head: bytes) -> int:
    if len(head) >= 10 and head[:3] == b"ID3" and not any(byte & 0x80 for byte in head[6:10]):
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        return 10 + size + (10 if head[5] & 0x10 else 0)
    if len(head) == 32 and head[:8] == b"APETAGEX" and head[23] & 0x20:  # a header and no footer
        return 32 + int.from_bytes(head[12:16], "little")
    return 0


def _bytes(file: BinaryIO, at: int, size: int) -> bytes:
    file.seek(at)
    return file.read(size)
