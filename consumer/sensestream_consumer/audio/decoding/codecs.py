"""The codecs that FFmpeg may decode here; its other decoders never see a byte of a recording."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["is_taken", "whitelist"]

_NAMES = frozenset(
    (
        *("aac", "aac_latm", "ac3", "alac", "eac3", "flac", "nellymoser", "wavpack"),
        *("amrnb", "amrwb", "libopencore_amrnb", "libopencore_amrwb"),
        *("g722", "g726", "g726le", "gsm", "gsm_ms", "libgsm"),
        *("mp1", "mp1float", "mp2", "mp2float", "mp3", "mp3float"),
        *("opus", "libopus", "speex", "libspeex", "vorbis", "libvorbis"),
        *("wmalossless", "wmapro", "wmav1", "wmav2", "wmavoice"),
    )
)
_FAMILIES = ("pcm_", "adpcm_")


def is_taken(codec: str) -> bool:
    """Tell whether audio coded as `codec`, FFmpeg's name of the decoder, is decoded."""
    return codec in _NAMES or codec.startswith(_FAMILIES)


def whitelist(available: Iterable[str]) -> str:
    """Return FFmpeg's option `codec_whitelist` out of the names of all its codecs.

    Without it FFmpeg probes the streams of a file with every decoder that it has: a cover picture
    of some kilobytes takes gigabytes of memory.
    """
    return ",".join(sorted(filter(is_taken, available)))
