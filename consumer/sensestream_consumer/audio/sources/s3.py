"""Open `s3://bucket/key` below the buckets of the policy, and no others.

A worker reads with credentials of its own. Without a list of buckets, anyone who can add a request
could have everything transcribed that these credentials open.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from typing import TYPE_CHECKING

from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError

from sensestream_consumer.audio.decoding.threads import copy_in_thread
from sensestream_consumer.audio.policy import AudioPolicy

if TYPE_CHECKING:
    from sensestream_consumer.audio.sources.reference import Reference
    from sensestream_consumer.audio.sources.s3_store import S3Store
    from sensestream_consumer.audio.spool import Fetched

__all__ = ["AT_ONCE", "S3"]

AT_ONCE = 16  # threads, and connections: as many as the worker fetches over networks at once


class S3:
    """Reads objects in threads of its own, which a store that hangs may hold until it times out."""

    def __init__(self, policy: AudioPolicy) -> None:
        self._policy = policy
        self._installed = find_spec("botocore") is not None
        self._threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="s3")
        self._store: S3Store | None = None
        self._opening = threading.Lock()

    async def open(self, reference: Reference) -> Fetched:
        """Copy an object as it is stored.

        Raises `RequestError`: `bad_request` without the extra `[s3]`, `audio_forbidden` outside
        `policy.s3_buckets`. Raises `TransientError` when the store is away, throttles or takes
        too long.
        """
        if not self._installed:
            raise _not_installed(reference)
        bucket, key = _address(reference)
        _require_allowed(reference, bucket, key, self._policy.s3_buckets)
        limit = self._policy.fetch_timeout

        def copy(stop: threading.Event) -> Fetched:
            return self._opened().copy(reference, bucket, key, stop)

        try:
            return await copy_in_thread(copy, limit, self._threads)
        except TimeoutError as error:
            message = f"{reference} could not be read within {limit:g} seconds"
            raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message) from error

    def _opened(self) -> S3Store:
        """Return the store; the first call makes it, in a third of a second and with 22 MB."""
        with self._opening:
            if self._store is None:
                from sensestream_consumer.audio.sources.s3_store import S3Store

                self._store = S3Store(self._policy, connections=AT_ONCE)
            return self._store

    def close(self) -> None:
        """Let the threads go, without waiting for a store that hangs."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _address(reference: Reference) -> tuple[str, str]:
    """Bucket and key; the key is taken as it stands, as Amazon's own tools take it."""
    bucket, _, key = reference.rest.removeprefix("//").partition("/")
    if not reference.rest.startswith("//") or not bucket or not key:
        message = f"{reference} names no object; write s3://bucket/folder/name.wav"
        raise RequestError(ErrorCode.BAD_REQUEST, message)
    if "@" in bucket or ":" in bucket:
        message = (
            f"{reference} has a user or a port in front of its key; the worker brings credentials "
            "and endpoint, so write s3://bucket/key"
        )
        raise RequestError(ErrorCode.BAD_REQUEST, message)
    return bucket, key


def _require_allowed(reference: Reference, bucket: str, key: str, allowed: tuple[str, ...]) -> None:
    inside = any(_holds(entry, bucket, key) for entry in allowed)
    # A proxy on the way, or a store that keeps files, may take a `..` for the folder above.
    if inside and ".." not in key.split("/"):
        return
    message = (
        f"{reference} is not in a bucket that this worker may read (SENSESTREAM_S3_BUCKETS is "
        f"{','.join(allowed) or 'empty'}); add it there, or give a presigned https:// address"
    )
    raise RequestError(ErrorCode.AUDIO_FORBIDDEN, message)


def _holds(entry: str, bucket: str, key: str) -> bool:
    """Whether `bucket`, `bucket/folder` or `*` covers an object; a folder ends at its slash."""
    name, _, folder = entry.partition("/")
    folder = folder.rstrip("/")
    return entry == "*" or (name == bucket and (not folder or key.startswith(folder + "/")))


def _not_installed(reference: Reference) -> RequestError:
    message = (
        f"{reference}: this worker opens no s3:// reference; install its extra "
        "(`pip install 'sensestream-consumer[s3]'`, or './consumer[s3]' in a checkout), or give "
        "a presigned https:// address"
    )
    return RequestError(ErrorCode.BAD_REQUEST, message)
