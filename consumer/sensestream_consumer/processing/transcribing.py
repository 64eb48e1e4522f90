"""Hearing a recording, with patience for a device that has no memory left for the moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from sensestream_common.connections.retry import Backoff
from sensestream_common.contract.errors import TransientError
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Transcript

from sensestream_consumer.engine import Engine, NotStarted
from sensestream_consumer.processing.deadlines import Deadlines, expired
from sensestream_consumer.telemetry.metrics import RETRIES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Hearing"]

log = structlog.get_logger(__name__)

_TRIES = 5  # about eight seconds in all: time for its neighbours' clips to end


class Hearing:
    """The worker's way to the engine, no longer than a request has time."""

    def __init__(self, engine: Engine, deadlines: Deadlines) -> None:
        self._engine = engine
        self._deadlines = deadlines

    async def transcribe(self, samples: NDArray[np.int16], request: Request) -> Transcript:
        """The transcript of int16[n] samples, 16 kHz mono.

        Raises what `Engine.transcribe` does, `TransientError` when the tries did not help, and
        `RequestError` (expired) when the deadline passes before the engine is free.
        """
        backoff = Backoff(first=0.5, longest=4.0)
        while True:
            self._deadlines.check(request)
            try:
                return await self._engine.transcribe(
                    samples, request.language, request.itn,
                    start_within=self._deadlines.left(request),
                )  # fmt: skip
            except NotStarted:
                raise expired(request) from None
            except TransientError as error:
                if backoff.failures + 1 >= _TRIES:
                    raise
                log.warning("engine_retries", tries=backoff.failures + 1, error=error.message)
                RETRIES.labels("engine").inc()
                await backoff.wait()
