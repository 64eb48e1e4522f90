"""Audio: from the reference in a request to the samples that the engine transcribes.

`sources/` copies the referenced bytes into a spool and hashes them on the way, `decoding/` turns
them into mono samples at 16 kHz, and `identity` names those samples for the result cache. The
policy stands here because the spool, the openers and the decoders all keep its limits.
"""

from sensestream_consumer.audio.decoding.decode import decode, decode_with_warnings
from sensestream_consumer.audio.decoding.mixdown import SAMPLE_RATE
from sensestream_consumer.audio.decoding.result import Decoded
from sensestream_consumer.audio.decoding.revision import DECODE_REVISION, decode_revision
from sensestream_consumer.audio.identity import audio_identity
from sensestream_consumer.audio.policy import AudioPolicy
from sensestream_consumer.audio.sources.fetch import Fetcher, Opener
from sensestream_consumer.audio.sources.reference import Reference, parse_reference
from sensestream_consumer.audio.spool import Fetched, Spool

__all__ = [
    "DECODE_REVISION",
    "SAMPLE_RATE",
    "AudioPolicy",
    "Decoded",
    "Fetched",
    "Fetcher",
    "Opener",
    "Reference",
    "Spool",
    "audio_identity",
    "decode",
    "decode_revision",
    "decode_with_warnings",
    "parse_reference",
]
