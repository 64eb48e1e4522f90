"""Name what a file is that is no recording taken here, and tell how to make one of it."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder

__all__ = ["name_of", "piece_of"]

_CONVERT = "convert it with `ffmpeg -i INPUT -vn -c:a flac OUTPUT.flac`"
_SEND_SOUND = "send the recording itself"
_JOIN = "send all pieces joined, with the first one in front"
_UNPACK = f"unpack it and {_SEND_SOUND}"

# What a file is, and what helps, by the bytes that it begins with; the first that fits counts.
_KINDS = tuple(
    (re.compile(pattern, re.DOTALL), name, remedy)
    for pattern, name, remedy in (
        (rb"PK(\x03\x04|\x05\x06|\x07\x08)", "a ZIP archive", _UNPACK),
        (rb"\x1f\x8b", "a gzip archive", _UNPACK),
        (rb"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
        (rb"Rar!\x1a\x07", "a RAR archive", _UNPACK),
        (rb"BZh[1-9]1AY&SY", "a bzip2 archive", _UNPACK),
        (rb"\xfd7zXZ\0", "an xz archive", _UNPACK),
        (rb"\x28\xb5\x2f\xfd", "a zstd archive", _UNPACK),
        (rb".{257}ustar", "a tar archive", _UNPACK),
        (rb"%PDF-", "a PDF document", _SEND_SOUND),
        (rb"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a Microsoft Office document", _SEND_SOUND),
        (rb"\xff\xd8\xff", "a JPEG picture", _SEND_SOUND),
        (rb"\x89PNG\r\n\x1a\n", "a PNG picture", _SEND_SOUND),
        (rb"GIF8[79]a", "a GIF picture", _SEND_SOUND),
        (rb"RIFF.{4}WEBP", "a WebP picture", _SEND_SOUND),
        (rb"(II\*\0|MM\0\*)", "a TIFF picture", _SEND_SOUND),
        (rb"\x7fELF|MZ.{58}", "a program", _SEND_SOUND),
        (rb"SQLite format 3\0", "an SQLite database", _SEND_SOUND),
        (rb"MThd\0\0\0\x06", "a MIDI file, which holds notes and no sound", _SEND_SOUND),
        (rb"RIFF.{4}RMID", "a MIDI file, which holds notes and no sound", _SEND_SOUND),
        (rb"wvpk", "a WavPack file", _CONVERT),
        (rb"MAC ", "a Monkey's Audio file", _CONVERT),
        (rb"(MPCK|MP\+)", "a Musepack file", _CONVERT),
        (rb"TTA[12]", "a True Audio file", _CONVERT),
        (rb"DSD |FRM8.{8}DSD ", "a DSD recording", _CONVERT),
        (rb"OFR ", "an OptimFROG file", _CONVERT),
        (rb"tBaK", "a TAK file", _CONVERT),
        (rb"ajkg", "a Shorten file", _CONVERT),
        (rb"\.RMF|\.ra\xfd", "a RealMedia file", _CONVERT),
        (rb"[\x02\x03]dss|\x03ds2", "a dictation in DSS or DS2", _CONVERT),
        (rb"Creative Voice File\x1a", "a Creative VOC file", _CONVERT),
        (rb"FORM.{4}(8SVX|16SV)", "an Amiga 8SVX file", _CONVERT),
        (rb"\x64\xa3[\x01-\x04]\0", "an IRCAM file", _CONVERT),
        (rb"\x7f\xfe\x80\x01|\xfe\x7f\x01\x80", "a bare DTS stream", _CONVERT),
        (rb"RIFF.{4}QLCM", "a QCP file", _CONVERT),
        (rb"#!SILK_V3|\x02#!SILK_V3", "a SILK recording, as WeChat and QQ make them",
         "convert it to WAV with a SILK decoder, such as `pilk`"),
        (rb"\0\0\x01[\xba\xb3]", "an MPEG program stream (MPG, VOB)", _CONVERT),
        (rb"\x06\x0e\x2b\x34\x02\x05\x01\x01", "an MXF file", _CONVERT),
        (rb"\x1f\x43\xb6\x75|\xa3[\x80-\xff]?.{0,7}?\x81..[\0\x80]",
         "a piece from the middle of a WebM recording", _JOIN),
        (rb".{4}(moof|styp|sidx|mfra|emsg|prft)",
         "a piece from the middle of an MP4 recording (a segment of DASH or HLS)", _JOIN),
        (rb"OggS\0", "a piece from the middle of an Ogg recording", _JOIN),
        (rb"#EXTM3U", "a playlist (M3U)", "send the recordings that it names"),
        (rb"\[playlist\]", "a playlist (PLS)", "send the recordings that it names"),
        (rb"ffconcat version", "a playlist (ffconcat)", "send the recordings that it names"),
        (rb"version https://git-lfs\.github\.com/spec/", "a Git LFS pointer and not its file",
         "fetch the file with `git lfs pull`"),
        (rb"data:[\w.+-]+/[\w.+-]+[;,]", "a data: URL written as text",
         "decode its base64 and send the bytes, or give it as the reference"),
        (rb"WEBVTT|1\r?\n\d\d:\d\d:\d\d,", "subtitles", _SEND_SOUND),
        (rb"--[^\r\n]{1,200}\r\nContent-Disposition:", "a whole form (multipart/form-data)",
         "send the bytes of its file part alone"),
        (rb"(?i:\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+)?(html|head|body|script)\b)",
         "a web page (text/html)", "check the address: it may ask for a login"),
        (rb"\s*<\?xml|\s*<[A-Za-z][\w:-]*[\s/>]", "XML", "it may be a server's message: read it"),
        (rb"\s*[\[{]\s*(\"|\]|\}|\{|\[|\d)", "JSON", "it may be a server's message: read it"),
    )
)  # fmt: skip

# What occurs in the middle of a recording: pieces of a live one begin anywhere.
_INSIDE = tuple(
    (re.compile(pattern, re.DOTALL), name)
    for pattern, name in (
        (rb"\x1f\x43\xb6\x75.{1,8}\xe7[\x81-\x88]", "a piece from the middle of a WebM recording"),
        (rb"moof\0\0\0\x10mfhd", "a piece from the middle of an MP4 recording"),
        (rb"OggS\0[\0\1\4\5]", "a piece from the middle of an Ogg recording"),
    )
)  # fmt: skip

_BASE64 = re.compile(rb"(UklGR|ZkxhQ|T2dnU|SUQz|GkXfo|AAAA|//[uvN])[A-Za-z0-9+/=\r\n]{56,}\Z")
_HEX = re.compile(rb"\s*52494646[0-9A-Fa-f\s]+\Z")
_CONTROL = frozenset(range(0x20)) - {0x09, 0x0A, 0x0C, 0x0D, 0x1B}


def name_of(head: bytes) -> tuple[str, str] | None:
    """Return what a file is and what helps, by its first bytes (a kilobyte or so).

    None for bytes that could be anything, raw samples among them.
    """
    text = head.removeprefix(b"\xef\xbb\xbf")
    for pattern, name, remedy in _KINDS:
        if pattern.match(text, 0, 1024) and _is_plausible(name, text):
            return name, remedy
    if _BASE64.match(text):
        return "a recording written as base64 text", "decode it and send the bytes"
    if _HEX.match(text):
        return "a recording written as hexadecimal text", "decode it and send the bytes"
    if head[:2] in {b"\xff\xfe", b"\xfe\xff"} and head[2:].count(0) > len(head) // 3:
        return "text (UTF-16)", _SEND_SOUND
    return ("text", _SEND_SOUND) if _is_text(text) else None


def piece_of(start: bytes) -> tuple[str, str] | None:
    """Return what the middle of a recording is that begins somewhere, and what helps."""
    return next(((name, _JOIN) for pattern, name in _INSIDE if pattern.search(start)), None)


def _is_plausible(name: str, head: bytes) -> bool:
    # Two letters begin a program, and many other things as well.
    return name != "a program" or head[:4] == b"\x7fELF" or b"PE\0\0" in head


def _is_text(head: bytes) -> bool:
    if not head or _CONTROL & set(head):
        return False
    try:
        getincrementaldecoder("utf-8")().decode(head)  # a character may be cut at the end
    except UnicodeDecodeError:
        return False
    return True
