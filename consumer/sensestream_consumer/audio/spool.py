"""The worker's own copy of the bytes: hashed while it is written, then decoded.

A file, a key or a web page may change between two readings. Hashing one reading and decoding
another would store a transcript under the digest of other bytes, so everything is copied once.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from typing import TYPE_CHECKING, BinaryIO, Self, cast

from sensestream_common.contract.errors import ErrorCode, TransientError

from sensestream_consumer.audio.policy import too_large

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["CHUNK", "Fetched", "Spool"]

CHUNK = 1024 * 1024  # bytes read, hashed and written at once: a thread hop costs 0.1 ms, not more
_IN_MEMORY = 8 * 1024 * 1024  # bytes; beyond that an unlinked file in the temporary folder


class Fetched:
    """The referenced bytes, owned by the worker; a context manager that gives them up.

    `digest` is `sha256:<hex>` of all `size` bytes, `media_type` what the source called them
    (empty if unknown), `file` a binary file positioned at 0, in memory or already unlinked.
    """

    __slots__ = ("digest", "file", "media_type", "size")

    def __init__(self, digest: str, size: int, media_type: str, file: BinaryIO) -> None:
        self.digest = digest
        self.size = size
        self.media_type = media_type
        self.file = file

    def close(self) -> None:
        """Give the bytes up; twice is as good as once."""
        self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Spool:
    """Takes bytes up to a limit and becomes a `Fetched`; blocking, so written to in threads.

    Args:
        what: the reference as errors may show it.
        limit: the most bytes that are taken.
    """

    def __init__(self, what: str, limit: int) -> None:
        self._what = what
        self.limit = limit
        self._hash = hashlib.sha256()
        self._size = 0
        self._file: BinaryIO = io.BytesIO()
        self._finished = False

    @property
    def size(self) -> int:
        """The number of bytes written so far."""
        return self._size

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Append; `audio_too_large` beyond the limit, transient `internal` on a full disk."""
        self._size += len(data)
        if self._size > self.limit:
            raise too_large(self._what, self.limit)
        self._hash.update(data)
        try:
            if self._size > _IN_MEMORY and isinstance(self._file, io.BytesIO):
                self._roll_over()
            self._file.write(data)
        except OSError as error:
            raise _no_room(error) from error

    def finish(self, media_type: str = "") -> Fetched:
        """Hand the bytes over; from here on the `Fetched` closes the file."""
        try:
            self._file.seek(0)  # writes what is buffered, so a full disk may show only here
        except OSError as error:
            raise _no_room(error) from error
        self._finished = True
        return Fetched(f"sha256:{self._hash.hexdigest()}", self._size, media_type, self._file)

    def _roll_over(self) -> None:
        in_memory = cast("io.BytesIO", self._file)
        file = cast("BinaryIO", tempfile.TemporaryFile())  # noqa: SIM115 - closed by __exit__ or the Fetched
        self._file = file
        file.write(in_memory.getbuffer())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if not self._finished:
            try:
                self._file.close()
            except OSError:
                # A full disk refuses the buffered rest; the file is unlinked, nothing is lost.
                return


def _no_room(error: OSError) -> TransientError:
    message = (
        f"the worker could not keep the audio in its temporary folder {tempfile.gettempdir()} "
        f"({error.strerror}); make room there, or point TMPDIR elsewhere"
    )
    return TransientError(ErrorCode.INTERNAL, message)
