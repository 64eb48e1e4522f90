"""The limit of the processor time that decoding one file may take."""

from __future__ import annotations

from time import thread_time

from sensestream_common.contract.errors import ErrorCode, RequestError

__all__ = ["ProcessorTime"]

# Seconds of processor time for one file. Four hours of 48 kHz stereo take less than a minute;
# a file made of millions of one-sample packets would take days.
_MAX_PROCESSOR_SECONDS = 600.0


class ProcessorTime:
    """The processor time that decoding one file may take, in this thread and from now on."""

    def __init__(self) -> None:
        self._deadline = thread_time() + _MAX_PROCESSOR_SECONDS

    def is_over(self) -> bool:
        """Tell whether decoding has taken more processor time than any audio needs."""
        return thread_time() > self._deadline

    def check(self) -> None:
        """Raise `audio_unreadable` once it is over."""
        if self.is_over():
            message = (
                f"decoding the audio took more than {_MAX_PROCESSOR_SECONDS:g} seconds of "
                "processor time; store it in a usual format, such as FLAC"
            )
            raise RequestError(ErrorCode.AUDIO_UNREADABLE, message)
