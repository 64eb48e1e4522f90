"""The codecs that FFmpeg may decode here."""

from __future__ import annotations

__all__ = ["is_taken"]

_NAMES = frozenset(
    (
        *("aac", "aac_latm", "alac", "flac", "nellymoser", "wavpack"),
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
