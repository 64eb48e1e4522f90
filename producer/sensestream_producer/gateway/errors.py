"""Refusals, in the words and the shape that each surface's clients understand.

/v1/audio, /v1/models   OpenAI's error object
/api, /cache            the tutorial's: status, data, from_cache, message
everywhere else         problem details, RFC 9457
"""

from __future__ import annotations

import math
from http import HTTPStatus
from typing import Any

import structlog
from sensestream_common.contract.errors import (
    BacklogFull,
    ErrorCode,
    RedisUnavailable,
    RequestError,
    SensestreamError,
    SubmitRefused,
    WaitTimeout,
)
from starlette.responses import JSONResponse

__all__ = ["STATUS_OF", "ApiError", "openai_error", "problem_of", "refusal_of", "response_of"]

log = structlog.get_logger("sensestream.gateway")

STATUS_OF = {
    ErrorCode.BAD_REQUEST: 400,
    ErrorCode.UNSUPPORTED_LANGUAGE: 400,
    ErrorCode.AUDIO_NOT_FOUND: 404,
    ErrorCode.AUDIO_FORBIDDEN: 403,
    ErrorCode.AUDIO_UNAVAILABLE: 502,
    ErrorCode.AUDIO_TOO_LARGE: 413,
    ErrorCode.AUDIO_TOO_LONG: 413,
    ErrorCode.AUDIO_UNREADABLE: 400,
    ErrorCode.AUDIO_EMPTY: 400,
    ErrorCode.DIGEST_MISMATCH: 400,
    ErrorCode.EXPIRED: 504,
    # Not a 5xx: clients would send again by themselves what takes workers down.
    ErrorCode.ATTEMPTS_EXHAUSTED: 422,
    ErrorCode.INTERNAL: 500,
}
_FULL_PAUSE = 5.0  # seconds that a caller is asked to wait where nobody can know better
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A call is not answered as it was meant: an HTTP status, a code, and one sentence.

    `retry_after` is in seconds; `param` is the field that is wrong, where it is one.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.headers = dict(headers or {})
        if retry_after is not None:
            self.headers["Retry-After"] = str(max(1, math.ceil(retry_after)))


def refusal_of(error: SensestreamError) -> ApiError:
    """What a caller is told of an error of the pipeline.

    What names the gateway's own surroundings (the address of Redis, its keys) stays in its log.
    """
    match error:
        case RequestError():
            return ApiError(STATUS_OF[error.code], error.code.value, error.message)
        case BacklogFull():
            message = "the queue is full: send it again later"
            return ApiError(503, "queue_full", message, retry_after=_FULL_PAUSE)
        case WaitTimeout():
            return ApiError(504, "timeout", str(error))
        case RedisUnavailable() | SubmitRefused():
            log.warning("pipeline_unavailable", error=str(error))
            message = "the queue takes nothing at the moment: send it again later"
            return ApiError(503, "unavailable", message, retry_after=_FULL_PAUSE)
        case _:
            log.error("pipeline_failed", kind=type(error).__name__, error=str(error))
    message = "the pipeline behind this service is not in order; its operator's log tells more"
    return ApiError(500, "internal", message)


def response_of(path: str, refusal: ApiError) -> JSONResponse:
    """The refusal as the clients of this path expect it."""
    if path.startswith(("/v1/audio", "/v1/models")):
        content = openai_error(refusal)
    elif path.startswith(("/api/", "/cache/")):
        content = {
            "status": "error",
            "data": None,
            "from_cache": False,
            "message": refusal.message,
        }
    else:
        return JSONResponse(
            problem_of(refusal), refusal.status, refusal.headers, "application/problem+json"
        )
    return JSONResponse(content, refusal.status, refusal.headers)


def openai_error(refusal: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    fallback = "invalid_request_error" if refusal.status < 500 else "server_error"
    return {
        "error": {
            "message": refusal.message,
            "type": _OPENAI_TYPES.get(refusal.status, fallback),
            "param": refusal.param,
            "code": refusal.code,
        }
    }


def problem_of(refusal: ApiError) -> dict[str, Any]:
    """Problem details, RFC 9457."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(refusal.status).phrase,
        "status": refusal.status,
        "detail": refusal.message,
        "code": refusal.code,
    }
    if refusal.param:
        problem["param"] = refusal.param
    return problem
