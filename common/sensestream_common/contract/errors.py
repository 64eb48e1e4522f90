"""Every error of the project that crosses a module, in one tree.

SensestreamError
├── SettingsError        a setting has a value its name does not take; the process cannot start
├── ModelError           a model directory is missing a file, or holds a foreign one
├── RequestError         one request cannot be answered with a transcript; carries its ErrorCode
│   └── TransientError   the same, but trying again may help
├── SubmitRefused        the pipeline did not take a request: nothing was added
│   └── BacklogFull      … because the backlog has reached its limit
├── WaitTimeout          no outcome within the time the caller was ready to wait
├── RedisUnavailable     Redis did not answer within the time the caller was ready to try
└── PipelineError        Redis holds something that is not this pipeline's (a key of another type)
"""

from __future__ import annotations

from enum import StrEnum

__all__ = [
    "BacklogFull",
    "ErrorCode",
    "ModelError",
    "PipelineError",
    "RedisUnavailable",
    "RequestError",
    "SensestreamError",
    "SettingsError",
    "SubmitRefused",
    "TransientError",
    "WaitTimeout",
]


class ErrorCode(StrEnum):
    """Why a request failed: the closed set of version 1 of the contract.

    A client that meets a code it does not know treats it as `INTERNAL`.
    """

    BAD_REQUEST = "bad_request"
    UNSUPPORTED_LANGUAGE = "unsupported_language"
    AUDIO_NOT_FOUND = "audio_not_found"
    AUDIO_FORBIDDEN = "audio_forbidden"
    AUDIO_UNAVAILABLE = "audio_unavailable"
    AUDIO_TOO_LARGE = "audio_too_large"
    AUDIO_TOO_LONG = "audio_too_long"
    AUDIO_UNREADABLE = "audio_unreadable"
    AUDIO_EMPTY = "audio_empty"
    DIGEST_MISMATCH = "digest_mismatch"
    EXPIRED = "expired"
    ATTEMPTS_EXHAUSTED = "attempts_exhausted"
    INTERNAL = "internal"

    @property
    def dead_letter(self) -> bool:
        """Whether a person could fix it, so that the request is kept to be replayed."""
        return self not in _NOT_WORTH_KEEPING

    @classmethod
    def parse(cls, value: str) -> ErrorCode:
        """The code of that name; `INTERNAL` for one that this version does not know."""
        try:
            return cls(value)
        except ValueError:
            return cls.INTERNAL


_NOT_WORTH_KEEPING = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.UNSUPPORTED_LANGUAGE,
        ErrorCode.AUDIO_EMPTY,
        ErrorCode.DIGEST_MISMATCH,
        ErrorCode.EXPIRED,
    }
)


class SensestreamError(Exception):
    """The root: `except SensestreamError` catches everything this project raises on purpose."""


class SettingsError(SensestreamError):
    """A setting has a value its name does not take."""


class ModelError(SensestreamError):
    """A model directory cannot be used; the message names the file and what was expected."""


class RequestError(SensestreamError):
    """One request cannot be answered with a transcript.

    `message` is one sentence for the person who sent the request: it names the value and the
    way to fix it, and holds no secrets (no user info, no query strings).
    """

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class TransientError(RequestError):
    """A request failed for a reason that may pass (a time-out, a 503): trying again may help."""


class SubmitRefused(SensestreamError):
    """The pipeline did not take the request; nothing was added."""


class BacklogFull(SubmitRefused):
    """As many requests wait as the pipeline allows; submit again later."""


class WaitTimeout(SensestreamError):
    """No outcome came within the time given; the request may still be answered later."""


class RedisUnavailable(SensestreamError):
    """Redis did not answer; the message names its URL, without the password, and the setting."""


class PipelineError(SensestreamError):
    """A key of this pipeline holds something else; the message names the key and its type."""
