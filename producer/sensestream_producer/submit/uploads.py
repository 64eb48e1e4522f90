"""Uploads: bytes of bounded size, hashed and put into Redis under a name of their own.

They are staged first, with an hour to live, and the submit script gives them their final name:
a client that dies between the two leaves nothing behind.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import stat
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from redis.exceptions import RedisError
from sensestream_common.contract.errors import ErrorCode, RequestError, SensestreamError
from sensestream_common.contract.keys import Keys

from sensestream_producer.submit.pending import UploadVanished
from sensestream_producer.transport import RedisTransport

__all__ = ["BoundedReader", "Staged", "Uploads"]

_CHUNK = 4 << 20  # bytes in one command: far from the socket time-out on any usable network
_STAGED_SECONDS = 3600
_STAGINGS = 3  # of one upload, where Redis loses the staged bytes each time
_AT_ONCE = 8  # uploads under way in one client, each with a chunk in memory


T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Staged:
    """Bytes in Redis that no request names yet."""

    key: str
    digest: str  # sha256:<hex>


class BoundedReader:
    """Reads files and bytes of at most `max_bytes`, in chunks."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def chunks(self, source: Path | bytes) -> AsyncGenerator[bytes]:
        """The content; `RequestError` for what cannot be read, or is too large or empty."""
        if isinstance(source, bytes):
            self._check_size(len(source), source)
            self._check_empty(len(source), source)
            for start in range(0, len(source), _CHUNK):
                yield source[start : start + _CHUNK]
            return
        try:
            descriptor = await asyncio.to_thread(self._open, source)
            with os.fdopen(descriptor, "rb") as file:
                size = 0
                while chunk := await asyncio.to_thread(file.read, _CHUNK):
                    size += len(chunk)
                    self._check_size(size, source)  # it may grow while it is read
                    yield chunk
                self._check_empty(size, source)
        except OSError as error:
            raise _unreadable(source, error) from error

    def _open(self, path: Path) -> int:
        """Opened without waiting for a writer, should it be a pipe, and looked at when open."""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise RequestError(ErrorCode.AUDIO_FORBIDDEN, f"{_name(path)} is no regular file")
            self._check_size(status.st_size, path)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _check_size(self, size: int, source: Path | bytes) -> None:
        if size > self._max_bytes:
            raise RequestError(
                ErrorCode.AUDIO_TOO_LARGE,
                f"{_name(source)} has {size} bytes and an upload may have {self._max_bytes}: raise "
                "--max-upload-bytes (SENSESTREAM_MAX_UPLOAD_BYTES), or submit it by reference",
            )

    def _check_empty(self, size: int, source: Path | bytes) -> None:
        if size == 0:
            raise RequestError(ErrorCode.AUDIO_EMPTY, f"{_name(source)} is empty")


class Uploads:
    """Stages files and bytes of at most `max_bytes`."""

    def __init__(self, link: RedisTransport, keys: Keys, *, max_bytes: int) -> None:
        self._link = link
        self._keys = keys
        self._reader = BoundedReader(max_bytes)
        self._slots = asyncio.Semaphore(_AT_ONCE)
        # Keys that an outage kept from being deleted: with the next upload, not in an hour.
        self._left: set[str] = set()

    async def digest(self, source: Path | bytes) -> str:
        """The digest of a file or bytes; `RequestError` as `stage` raises it."""
        digest = hashlib.sha256()
        async with aclosing(self._reader.chunks(source)) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(digest.update, chunk)
        return f"sha256:{digest.hexdigest()}"

    async def send(self, source: Path | bytes, submit: Callable[[Staged], Awaitable[T]]) -> T:
        """Stage a file or bytes and submit them; as `send_chunks`.

        Raises `RequestError` for a file that cannot be read or is too large.
        """
        return await self.send_chunks(lambda: self._reader.chunks(source), submit)

    async def send_chunks(
        self,
        read: Callable[[], AsyncGenerator[bytes]],
        submit: Callable[[Staged], Awaitable[T]],
    ) -> T:
        """Stage the bytes that `read` gives, and submit the request that takes them.

        `read` is called anew for each try: a Redis that restarts without its data loses staged
        bytes, and they are staged again.

        Raises:
            UploadVanished: Redis lost the staged bytes each time.
        """
        for _ in range(_STAGINGS):
            staged = await self.stage(read)
            try:
                return await submit(staged)
            except UploadVanished:
                continue
            except SensestreamError:
                with suppress(SensestreamError):  # they expire by themselves
                    await self._discard(staged)
                raise
        raise UploadVanished(f"the staged upload vanished {_STAGINGS} times")

    async def stage(self, read: Callable[[], AsyncGenerator[bytes]]) -> Staged:
        """Put the bytes that `read` gives into Redis, for an hour."""
        # One key for all tries: what a lost reply leaves of an earlier one would lie for an hour.
        key = self._keys.upload(secrets.token_hex(16))
        async with self._slots:
            await self._link.run(self._sweep)
            try:
                return await self._link.run(lambda: self._stage(key, read()))
            except BaseException:
                self._left.add(key)
                raise

    async def _discard(self, staged: Staged) -> None:
        """Delete staged bytes that no request has taken; later, where Redis is away."""
        self._left.add(staged.key)
        await self._link.run(self._sweep)

    async def close(self) -> None:
        """Delete what is left behind, if Redis answers; if not it expires by itself."""
        with suppress(RedisError, OSError):
            await self._sweep()

    async def _sweep(self) -> None:
        if left := set(self._left):
            await self._link.redis.delete(*left)
            self._left -= left

    async def _stage(self, key: str, content: AsyncGenerator[bytes]) -> Staged:
        digest = hashlib.sha256()
        size = 0
        async with aclosing(content) as chunks:
            async for chunk in chunks:
                await asyncio.to_thread(digest.update, chunk)
                async with self._link.redis.pipeline(transaction=True) as pipe:
                    if not size:
                        pipe.delete(key)
                    pipe.setrange(key, size, chunk)
                    pipe.expire(key, _STAGED_SECONDS)
                    await pipe.execute()
                size += len(chunk)
        return Staged(key, f"sha256:{digest.hexdigest()}")


def _name(source: Path | bytes) -> str:
    return repr(str(source)) if isinstance(source, Path) else "the upload"


def _unreadable(path: Path, error: OSError) -> RequestError:
    gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
    code = ErrorCode.AUDIO_NOT_FOUND if gone else ErrorCode.AUDIO_FORBIDDEN
    return RequestError(code, f"{_name(path)} cannot be read: {error.strerror or error}")
