"""What a caller hands in, and the receipt that comes back."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict

from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import Outcome, Status
from sensestream_common.contract.request import Request

__all__ = ["Receipt", "RequestState", "Submission", "SubmitOptions", "new_request_id"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """One recording to be transcribed, and how.

    `audio` is a reference with its scheme (`file:///data/a.wav`, `https://…`), which workers
    open, or a `Path` or `bytes`, which are uploaded. `id` is made up when it is empty; the same
    id again adds nothing. `ttl` is in seconds. `deadline` is a moment (an aware `datetime`, or
    milliseconds since the epoch) or a time from now on Redis's clock (`timedelta`). `metadata`
    is JSON text, or any other value, which is encoded as JSON.
    """

    audio: str | Path | bytes
    id: str = ""
    language: str = "auto"
    itn: bool = True
    priority: str = Lane.NORMAL
    digest: str = ""
    ttl: int | None = None
    deadline: datetime | timedelta | int | None = None
    callback_url: str = ""
    metadata: Any = None
    traceparent: str = ""

    @property
    def lane(self) -> Lane:
        """The stream it goes to; `RequestError` for a priority that there is not."""
        try:
            return Lane(self.priority)
        except ValueError:
            raise RequestError(
                ErrorCode.BAD_REQUEST, f"priority={self.priority!r} is not one of normal, high"
            ) from None

    @property
    def time_left(self) -> int | None:
        """Milliseconds from the submit to the deadline, where it is relative."""
        if not isinstance(self.deadline, timedelta):
            return None
        if self.deadline <= timedelta(0):
            raise RequestError(
                ErrorCode.BAD_REQUEST, f"deadline={self.deadline!s} is not a time from now on"
            )
        return round(self.deadline / timedelta(milliseconds=1))

    def request(self, request_id: str, keys: Keys) -> Request:
        """The request that workers read; `RequestError` for a value that no field takes."""
        uploaded = not isinstance(self.audio, str)
        return Request(
            audio=f"redis:{keys.upload(request_id)}" if uploaded else str(self.audio),
            id=request_id,
            language=self.language,
            itn=self.itn,
            digest=self.digest,
            ttl=self.ttl,
            deadline=_moment(self.deadline),
            callback_url=self.callback_url,
            metadata=_json_text(self.metadata),
            traceparent=self.traceparent,
        )


class SubmitOptions(TypedDict, total=False):
    """What `submit` and `transcribe` take by name: the fields of `Submission` but its audio."""

    id: str
    language: str
    itn: bool
    priority: str
    digest: str
    ttl: int | None
    deadline: datetime | timedelta | int | None
    callback_url: str
    metadata: Any
    traceparent: str


class RequestState:
    """The values of `state` in a request's key."""

    QUEUED = "queued"
    STARTED = "started"
    DONE = "done"


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Redis holds the request: `entry` is its stream id.

    `state` says where it stands, and `status` and `outcome` (a stream id) how it ended, if it has.
    `duplicate` says that the id stood there already and nothing was added. A cache hit is done at
    once, and its outcome is the `answer`.
    """

    id: str
    entry: str
    lane: Lane
    duplicate: bool = False
    state: str = RequestState.QUEUED
    status: Status | None = None
    outcome: str = ""
    answer: Outcome | None = field(default=None, repr=False)


def new_request_id() -> str:
    """32 hexadecimal digits that sort by time: 48 bits of milliseconds and 80 of chance."""
    return f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def _moment(deadline: datetime | timedelta | int | None) -> int | None:
    if isinstance(deadline, datetime):
        if deadline.tzinfo is None:
            raise RequestError(
                ErrorCode.BAD_REQUEST,
                f"deadline={deadline.isoformat()!r} has no time zone: use an aware datetime",
            )
        return round(deadline.timestamp() * 1000)
    return None if isinstance(deadline, timedelta) else deadline


def _json_text(metadata: Any) -> str:
    if metadata is None or isinstance(metadata, str):
        return metadata or ""
    try:
        return _to_json(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"metadata is not JSON: {error}") from None


_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
