"""Tell a file's container by its first bytes; names and media types may lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

__all__ = ["FORMATS", "Container", "sniff"]

FORMATS = "WAV, FLAC, OGG, OPUS, MP3, M4A/AAC, WebM and AMR"

_HEAD = 16  # bytes that tell any container from the others
_MAX_TAGS = 16  # before the audio; a file of nothing but empty tags is none
_SEARCH = 1024 * 1024  # bytes looked through at once for further Ogg streams
_OGG_BEGIN = b"OggS\0\x02"  # capture pattern, version 0, "beginning of stream" (RFC 3533)


@dataclass(frozen=True, slots=True)
class Container:
    """A container and where it begins.

    Attributes:
        demuxer: FFmpeg's name for it.
        libsndfile: whether libsndfile reads it whole, and is to be tried first.
        offset: the byte where it begins, behind the tags put before it.
    """

    demuxer: str
    libsndfile: bool
    offset: int = 0


def sniff(file: BinaryIO) -> Container | None:
    """The container in `file`, or None if it is none of those taken.

    MP3 goes to FFmpeg although libsndfile reads it: libsndfile's decoder believes the frame
    count in the first header, and so drops all but the first of several joined recordings, gives
    up after one kilobyte of garbage, and writes its complaints to stderr. For the like reason an
    Ogg file with more than one logical stream goes there too: libsndfile stops after the first.
    """
    offset = _behind_tags(file)
    file.seek(offset)
    head = file.read(_HEAD)
    if head[:4] in {b"RIFF", b"RIFX", b"RF64"} and head[8:12] == b"WAVE":
        return Container("wav", libsndfile=True, offset=offset)
    if head[:4] == b"fLaC":
        return Container("flac", libsndfile=True, offset=offset)
    if head[:4] == b"OggS":
        return Container("ogg", libsndfile=not _has_several_streams(file, offset), offset=offset)
    demuxer = _ffmpeg_demuxer(head) or ("mp3" if offset else None)
    return Container(demuxer, libsndfile=False, offset=offset) if demuxer else None


def _ffmpeg_demuxer(head: bytes) -> str | None:
    if head.startswith(b"#!AMR"):
        return "amr"
    if head.startswith(b"\x1a\x45\xdf\xa3"):  # EBML: WebM and Matroska
        return "matroska"
    if head[4:8] in {b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"}:
        return "mov"
    if len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0:
        layer = head[1] >> 1 & 3  # 0 is reserved in MPEG audio, and what an ADTS header has there
        return "mp3" if layer else "aac"
    return None


def _behind_tags(file: BinaryIO) -> int:
    """Where the audio begins: ID3v2 tags may stand before any of the formats."""
    offset = 0
    for _ in range(_MAX_TAGS):
        file.seek(offset)
        head = file.read(10)
        if len(head) < 10 or head[:3] != b"ID3" or any(byte & 0x80 for byte in head[6:]):
            break
        size = head[6] << 21 | head[7] << 14 | head[8] << 7 | head[9]
        offset += 10 + size + (10 if head[5] & 0x10 else 0)
    return offset


def _has_several_streams(file: BinaryIO, offset: int) -> bool:
    file.seek(offset)
    begins, tail = 0, b""
    while begins < 2 and (data := file.read(_SEARCH)):
        begins += (tail + data).count(_OGG_BEGIN)
        tail = data[1 - len(_OGG_BEGIN) :]
    return begins > 1
