"""The limits that every opener and every decoder of a worker keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sensestream_common.contract.errors import ErrorCode, RequestError

__all__ = ["AudioPolicy", "too_large", "too_long"]


@dataclass(frozen=True, slots=True)
class AudioPolicy:
    """The limits of one worker; a request that passes one fails with an error of its own.

    Attributes:
        roots: the folders that `file://` may read.
        max_bytes: the most bytes of one recording, compressed or not.
        max_seconds: the longest recording, in seconds of decoded audio.
        fetch_timeout: seconds for one fetch as a whole.
        max_redirects: how many redirects an `http(s)://` reference may take.
        allow_private_hosts: whether `http(s)://` may reach addresses that are not public.
        redis_prefixes: key prefixes that `redis:` may read besides that of the uploads.
        s3_buckets: what `s3://` may read, each `bucket`, `bucket/folder` or `*`.
    """

    roots: tuple[Path, ...]
    max_bytes: int = 512 * 1024 * 1024
    max_seconds: float = 4 * 3600
    fetch_timeout: float = 30.0
    max_redirects: int = 5
    allow_private_hosts: bool = False
    redis_prefixes: tuple[str, ...] = ()
    s3_buckets: tuple[str, ...] = ()


def too_large(what: str, limit: int) -> RequestError:
    """The refusal of audio with more than `limit` bytes; `what` is the reference as displayed."""
    message = (
        f"{what} has more than {limit} bytes, the limit of this worker; send a shorter or better "
        "compressed recording, or raise SENSESTREAM_MAX_AUDIO_BYTES on the worker"
    )
    return RequestError(ErrorCode.AUDIO_TOO_LARGE, message)


def too_long(limit: float) -> RequestError:
    """The refusal of audio that lasts more than `limit` seconds."""
    message = (
        f"the audio lasts more than {limit:g} seconds, the limit of this worker; cut it into "
        "pieces, or raise SENSESTREAM_MAX_AUDIO_SECONDS on the worker"
    )
    return RequestError(ErrorCode.AUDIO_TOO_LONG, message)
