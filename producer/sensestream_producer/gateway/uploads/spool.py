"""An upload on its way in: hashed as it comes, in memory while it is small, else on disk."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from io import BytesIO
from tempfile import TemporaryFile
from types import TracebackType
from typing import IO, Self

__all__ = ["Spool"]

_IN_MEMORY = 1 << 20  # bytes; a larger upload goes into a file without a name
_CHUNK = 4 << 20


class Spool:
    """The bytes of one upload. Use it in a `with` block, or `close` it."""

    def __init__(self) -> None:
        self.size = 0
        self._digest = hashlib.sha256()
        self._waiting = bytearray()
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def feed(self, data: bytes) -> None:
        """Take some bytes; `settle` afterwards, which may write them."""
        self._waiting += data
        self.size += len(data)

    async def settle(self) -> None:
        """Move what waits to disk where it is much, off the event loop."""
        if len(self._waiting) > _IN_MEMORY:
            waiting, self._waiting = bytes(self._waiting), bytearray()
            await asyncio.to_thread(self._write, waiting)

    async def finish(self) -> str:
        """All has come: its digest, as requests name it."""
        if self._file is not None:
            waiting, self._waiting = bytes(self._waiting), bytearray()
            await asyncio.to_thread(self._write, waiting)
        else:
            self._digest.update(self._waiting)
        return f"sha256:{self._digest.hexdigest()}"

    async def chunks(self) -> AsyncGenerator[bytes]:
        """The content, from its beginning, as often as it is asked for."""
        if self._file is None:
            yield bytes(self._waiting)
            return
        await asyncio.to_thread(self._file.seek, 0)
        while chunk := await asyncio.to_thread(self._file.read, _CHUNK):
            yield chunk

    @contextmanager
    def reader(self) -> Iterator[IO[bytes]]:
        """The content as a file to be read from its beginning, blocking."""
        if self._file is None:
            yield BytesIO(self._waiting)
            return
        self._file.seek(0)
        yield self._file

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, data: bytes) -> None:
        if self._file is None:
            self._file = TemporaryFile()  # noqa: SIM115 - closed by `close`
        self._digest.update(data)
        self._file.write(data)
