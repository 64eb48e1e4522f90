"""The recognition engine: SenseVoice on ONNX Runtime, from samples to a transcript.

`Recogniser` is one loaded model, `Engine` its asyncio face. Importing this package loads neither
ONNX Runtime nor a model.
"""

from sensestream_consumer.engine.async_engine import Engine, NotStarted
from sensestream_consumer.engine.model.directory import resolve_model
from sensestream_consumer.engine.recogniser import Recogniser

__all__ = ["Engine", "NotStarted", "Recogniser", "resolve_model"]
