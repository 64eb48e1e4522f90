"""A pipeline in memory, for the tests of services that use the clients: no Redis, no model.

    pipeline = ScriptedPipeline(default="hello")
    pipeline.answer("file:///data/a.wav", "good morning")
    pipeline.answer("https://example.org/gone.mp3", ErrorCode.AUDIO_NOT_FOUND)
    with pipeline.blocking_client() as client:
        assert client.transcribe("file:///data/a.wav").text == "good morning"

Its clients are the ordinary ones to a type checker and keep the promises of the contract:
submitting once per id, the cache, dead letters, positions and gaps.
"""

from sensestream_producer.testing.client import BlockingClient, Client
from sensestream_producer.testing.pipeline import ScriptedPipeline
from sensestream_producer.testing.script import Answer

__all__ = ["Answer", "BlockingClient", "Client", "ScriptedPipeline"]
