"""Errors of the API, in the shape that the clients of each path expect.

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

__all__ = [
    "STATUS_OF",
    "ApiError",
    "error_response",
    "openai_error",
    "problem_details",
    "to_api_error",
]

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
    # Not a 5xx: clients retry those by themselves, and this request crashes workers.
    ErrorCode.ATTEMPTS_EXHAUSTED: 422,
    ErrorCode.INTERNAL: 500,
}
_RETRY_AFTER = 5.0  # seconds that a caller is asked to wait when no better figure is known
_OPENAI_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


class ApiError(Exception):
    """A call that ends in an error: an HTTP status, a code, and one sentence for the caller.

    `param` names the field that is wrong, if one is. `retry_after` is in seconds.
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


def to_api_error(error: SensestreamError) -> ApiError:
    """The error that a caller sees for an error of the pipeline.

    Details of the deployment (the address of Redis, its keys) go to the log only.
    """
    match error:
        case RequestError():
            return ApiError(STATUS_OF[error.code], error.code.value, error.message)
        case BacklogFull():
            message = "the queue is full: send it again later"
            return ApiError(503, "queue_full", message, retry_after=_RETRY_AFTER)
        case WaitTimeout():
            return ApiError(504, "timeout", str(error))
        case RedisUnavailable() | SubmitRefused():
            log.warning("pipeline_unavailable", error=str(error))
            message = "the queue accepts no requests at the moment: send it again later"
            return ApiError(503, "unavailable", message, retry_after=_RETRY_AFTER)
        case _:
            log.error("pipeline_failed", kind=type(error).__name__, error=str(error))
    message = "the pipeline behind this service failed: its operator finds the cause in the log"
    return ApiError(500, "internal", message)


def error_response(path: str, error: ApiError) -> JSONResponse:
    """The response for an error, in the shape that clients of this path expect."""
    if path.startswith(("/v1/audio", "/v1/models")):
        content = openai_error(error)
    elif path.startswith(("/api/", "/cache/")):
        content = {"status": "error", "data": None, "from_cache": False, "message": error.message}
    else:
        media_type = "application/problem+json"
        return JSONResponse(problem_details(error), error.status, error.headers, media_type)
    return JSONResponse(content, error.status, error.headers)


def openai_error(error: ApiError) -> dict[str, Any]:
    """OpenAI's error object."""
    fallback = "invalid_request_error" if error.status < 500 else "server_error"
    return {
        "error": {
            "message": error.message,
            "type": _OPENAI_TYPES.get(error.status, fallback),
            "param": error.param,
            "code": error.code,
        }
    }


def problem_details(error: ApiError) -> dict[str, Any]:
    """Problem details, RFC 9457."""
    problem: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.message,
        "code": error.code,
    }
    if error.param:
        problem["param"] = error.param
    return problem
