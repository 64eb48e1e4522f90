"""A pipeline in memory, for the tests of services that use the clients: no Redis, no model.

    pipeline = ScriptedPipeline(default="hello")
    pipeline.answer("file:///data/a.wav", "good morning")
    pipeline.answer("https://example.org/gone.mp3", ErrorCode.AUDIO_NOT_FOUND)
    with pipeline.blocking_client() as client:
        assert client.transcribe("file:///data/a.wav").text == "good morning"

An answer is a text, a `Transcript`, an error, or a function of the `Request`, with warnings about
the recording where there are any. Its clients are
subclasses of the ordinary ones and keep the promises of the contract: idempotent submits, the
cache, dead letters, positions and gaps.
"""

from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Transcript

from sensestream_producer.testing.client import BlockingClient, Client
from sensestream_producer.testing.pipeline import ScriptedPipeline
from sensestream_producer.testing.script import Answer

__all__ = ["Answer", "BlockingClient", "Client", "Request", "ScriptedPipeline", "Transcript"]
