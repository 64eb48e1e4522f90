"""Single flight within a worker: identical requests that come together are transcribed once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.transcript import Transcript

__all__ = ["FlightCall", "FlightKey", "FlightResult", "SingleFlight"]

# Faults of the bytes, which every request for them shares. A deadline, a start too many or a lost
# connection are one request's own.
_FAULTS = frozenset(
    {
        ErrorCode.AUDIO_EMPTY,
        ErrorCode.AUDIO_TOO_LONG,
        ErrorCode.AUDIO_UNREADABLE,
        ErrorCode.UNSUPPORTED_LANGUAGE,
    }
)

FlightKey = tuple[str, str, bool]  # digest of the bytes, language, itn


@dataclass(frozen=True, slots=True)
class FlightResult:
    """What the leader of a flight found: for the followers to answer with."""

    transcript: Transcript
    audio: str  # identity of the audio


class FlightCall:
    """A transcription under way in this worker."""

    def __init__(self) -> None:
        self._landed: asyncio.Future[FlightResult | RequestError | None] = (
            asyncio.get_running_loop().create_future()
        )

    def land(self, landing: FlightResult) -> None:
        self._landed.set_result(landing)

    def crash(self, error: BaseException | None) -> None:
        """Same bytes, same fault; after any other error the followers try for themselves."""
        if not self._landed.done():
            fault = error if isinstance(error, RequestError) and error.code in _FAULTS else None
            self._landed.set_result(fault)

    async def follow(self) -> FlightResult | None:
        """The leader's result, `None` to try again; raises the fault of these bytes."""
        landing = await asyncio.shield(self._landed)
        if isinstance(landing, RequestError):
            raise RequestError(landing.code, landing.message)
        return landing


class SingleFlight:
    """The flights under way, by what is transcribed."""

    def __init__(self) -> None:
        self._under_way: dict[FlightKey, FlightCall] = {}

    def get(self, key: FlightKey) -> FlightCall | None:
        return self._under_way.get(key)

    @contextmanager
    def lead(self, key: FlightKey) -> Iterator[FlightCall]:
        """Lead a flight; on the way out without a landing its followers are told."""
        flight = self._under_way[key] = FlightCall()
        error: BaseException | None = None
        try:
            yield flight
        except BaseException as raised:
            error = raised
            raise
        finally:
            del self._under_way[key]
            flight.crash(error)
