"""Open audio in the pipeline's Redis (`redis:<key>`) and in the reference itself (`data:`)."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_to_bytes

from redis.exceptions import ResponseError
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError

from sensestream_consumer.audio.policy import AudioPolicy, too_large
from sensestream_consumer.audio.spool import Fetched, Spool

if TYPE_CHECKING:
    from redis.asyncio import Redis

    from sensestream_consumer.audio.sources.reference import Reference

__all__ = ["MAX_DATA_BYTES", "open_data", "open_key"]

MAX_DATA_BYTES = 256 * 1024  # decoded; a request is a stream entry, and those stay small
_RANGE = 4 * 1024 * 1024  # bytes of one GETRANGE: longer ones would hold up everybody's commands
_STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")


async def open_key(
    reference: Reference, policy: AudioPolicy, redis: Redis, upload_prefix: str
) -> Fetched:
    """Copy the string at a key below `upload_prefix` or one of `policy.redis_prefixes`.

    Redis's own connection errors pass through: they tell nothing about the request.
    """
    key = reference.rest
    prefixes = [prefix for prefix in (upload_prefix, *policy.redis_prefixes) if prefix]
    if not any(key.startswith(prefix) and key != prefix for prefix in prefixes):
        message = f"{reference} is not below a key prefix that this worker may read: " + ", ".join(
            prefixes
        )
        raise RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
    clock = asyncio.get_running_loop().time
    end = clock() + policy.fetch_timeout
    size = await _length(redis, reference, key)
    if size > policy.max_bytes:
        raise too_large(reference.display, policy.max_bytes)
    with Spool(reference.display, policy.max_bytes) as spool:
        while spool.size < size:
            # Looked at between commands: cutting one short would leave its reply unread.
            if clock() > end:
                message = f"{reference} could not be read within {policy.fetch_timeout:g} seconds"
                raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message)
            last = min(spool.size + _RANGE, size) - 1
            data = await _command(redis, "GETRANGE", key, spool.size, last)
            if not data:
                message = f"{reference} went away while it was read"
                raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message)
            await asyncio.to_thread(spool.write, data)
        return spool.finish()


async def _length(redis: Redis, reference: Reference, key: str) -> int:
    try:
        size = int(await _command(redis, "STRLEN", key))
    except ResponseError as error:
        if not str(error).startswith("WRONGTYPE"):
            raise
        message = f"{reference} is not a string in Redis; store the audio's bytes with SET"
        raise RequestError(ErrorCode.AUDIO_UNREADABLE, message) from error
    if size == 0 and not await _command(redis, "EXISTS", key):
        message = f"{reference} does not exist in Redis; it was deleted, or never uploaded"
        raise RequestError(ErrorCode.AUDIO_NOT_FOUND, message)
    return size


async def _command(redis: Redis, *command: str | int) -> Any:
    # Bytes even from a client that decodes its replies: audio is not UTF-8.
    reply = redis.execute_command(*command, NEVER_DECODE=True)  # type: ignore[no-untyped-call]
    return await reply


async def open_data(reference: Reference, policy: AudioPolicy) -> Fetched:
    """Decode a `data:` URL (RFC 2397), in its base64 or its percent form."""
    head, comma, body = reference.rest.partition(",")
    if not comma:
        raise _malformed(reference, "has no comma before its data")
    media_type, *parameters = head.split(";")
    is_base64 = bool(parameters) and parameters[-1].strip().lower() == "base64"
    limit = min(MAX_DATA_BYTES, policy.max_bytes)
    if len(body) > 4 * MAX_DATA_BYTES:  # no encoding of as many bytes as are allowed is longer
        raise _too_much(limit)
    if _STRAY_PERCENT.search(body):
        raise _malformed(reference, "has a percent sign without two hex digits after it")
    data = unquote_to_bytes(body)
    if is_base64:
        try:
            data = base64.b64decode(data, validate=True)
        except binascii.Error as error:
            raise _malformed(reference, f"is not valid base64 ({error})") from error
    if len(data) > limit:
        raise _too_much(limit)
    with Spool(reference.display, limit) as spool:
        spool.write(data)
        return spool.finish(media_type.strip().lower()[:100])


def _malformed(reference: Reference, why: str) -> RequestError:
    message = f"{reference} {why}; write data:audio/wav;base64,… as in RFC 2397"
    return RequestError(ErrorCode.BAD_REQUEST, message)


def _too_much(limit: int) -> RequestError:
    message = (
        f"the data: URL holds more than {limit} bytes; upload longer audio "
        "(`sensestream submit FILE`) or refer to it by file:// or http://"
    )
    return RequestError(ErrorCode.AUDIO_TOO_LARGE, message)
