"""Single flight within a worker: identical requests that come together are transcribed once.

The first of them leads and transcribes; the others follow and take its result.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sensestream_common.contract.alias import Alias
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.transcript import Transcript

__all__ = ["FlightCall", "FlightKey", "FlightResult", "SingleFlight"]

# Faults of the bytes, which every request for them shares. A deadline, a start too many or a lost
# connection are one request's own.
_SHARED_FAULTS = frozenset(
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
    """The leader's transcript, for the followers to answer with."""

    transcript: Transcript
    alias: Alias  # of the bytes, which all of them share


class FlightCall:
    """One transcription under way. Its leader ends it, once; its followers wait for the end."""

    def __init__(self, reference: str) -> None:
        self.reference = reference
        # A fault is a result too: asyncio would log an exception that no follower retrieves.
        self._end: asyncio.Future[FlightResult | RequestError | None] = (
            asyncio.get_running_loop().create_future()
        )

    def set_result(self, result: FlightResult) -> None:
        """End with a transcript that all followers share."""
        self._end.set_result(result)

    def set_exception(self, fault: RequestError) -> None:
        """End with a fault of the bytes that all followers share."""
        self._end.set_result(fault)

    def let_followers_retry(self) -> None:
        """End without a result: each follower tries for itself. Nothing where it has ended."""
        if not self._end.done():
            self._end.set_result(None)

    async def wait(self) -> FlightResult | None:
        """The leader's result; `None` to try again. Raises the fault that all share."""
        end = await asyncio.shield(self._end)
        if isinstance(end, RequestError):
            raise RequestError(end.code, end.message)  # a copy: each has a traceback of its own
        return end


class SingleFlight:
    """The calls under way, by what they transcribe."""

    def __init__(self) -> None:
        self._under_way: dict[FlightKey, FlightCall] = {}

    def get(self, key: FlightKey) -> FlightCall | None:
        """The call to follow; `None` where there is none."""
        return self._under_way.get(key)

    def has_reference(self, reference: str) -> bool:
        """Whether a call transcribes what this reference leads to."""
        return any(call.reference == reference for call in self._under_way.values())

    @contextmanager
    def lead(self, key: FlightKey, reference: str) -> Iterator[FlightCall]:
        """Lead a call. The block ends it with a result, or it ends with the error of the block."""
        call = self._under_way[key] = FlightCall(reference)
        try:
            yield call
        except RequestError as error:
            if error.code in _SHARED_FAULTS:
                call.set_exception(error)
            raise
        finally:
            del self._under_way[key]
            call.let_followers_retry()
