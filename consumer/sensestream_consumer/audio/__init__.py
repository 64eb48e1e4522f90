"""Audio: from the reference in a request to the samples that the engine hears."""

from .decode import decode
from .fetch import Fetcher, Opener
from .identity import audio_identity
from .mixdown import SAMPLE_RATE
from .policy import AudioPolicy
from .reference import Reference, parse_reference
from .spool import Fetched, Spool

__all__ = [
    "SAMPLE_RATE",
    "AudioPolicy",
    "Fetched",
    "Fetcher",
    "Opener",
    "Reference",
    "Spool",
    "audio_identity",
    "decode",
    "parse_reference",
]
