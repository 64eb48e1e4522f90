"""The bytes of an upload: hashed as they arrive, held in memory or, if many, in a file."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from io import BytesIO
from tempfile import TemporaryFile
from typing import IO

__all__ = ["Spool"]

_IN_MEMORY = 1 << 20  # bytes; a larger upload goes into a temporary file
_CHUNK = 4 << 20  # bytes read from the file at once


class Spool:
    """The bytes of one upload, `size` of them so far. Close it to delete its temporary file."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._buffer = bytearray()
        self._file: IO[bytes] | None = None

    def feed(self, data: bytes) -> None:
        """Add bytes. Await `flush` after each call."""
        self._buffer += data
        self.size += len(data)

    async def flush(self) -> None:
        """Write the bytes in memory to the file if they are many, in a thread."""
        if len(self._buffer) > _IN_MEMORY:
            data, self._buffer = bytes(self._buffer), bytearray()
            await asyncio.to_thread(self._write, data)

    async def finish(self) -> str:
        """Call it after the last bytes. Returns the digest, as sha256:<hex>."""
        if self._file is not None:
            data, self._buffer = bytes(self._buffer), bytearray()
            await asyncio.to_thread(self._write, data)
        else:
            self._digest.update(self._buffer)
        return f"sha256:{self._digest.hexdigest()}"

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The content in chunks; each call begins anew."""
        if self._file is None:
            yield bytes(self._buffer)
            return
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, _CHUNK):
            yield chunk

    @contextmanager
    def reader(self) -> Iterator[IO[bytes]]:
        """The content as a file at its beginning; reading it blocks."""
        if self._file is None:
            yield BytesIO(self._buffer)
            return
        self._file.seek(0)
        yield self._file

    def close(self) -> None:
        """Delete the temporary file, if there is one."""
        if self._file is not None:
            self._file.close()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._digest.update(data)
        self._file.write(data)
