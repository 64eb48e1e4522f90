"""The view of a file that the C libraries get: from an offset on, and never raising into them."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

__all__ = ["SeekableView"]


class SeekableView(io.RawIOBase):
    """A read-only view of `file` from `offset` on.

    A lying header makes a library seek before the beginning or beyond what an offset can hold.
    Python's files raise then, and libsndfile's callbacks can only print that to stderr; here the
    position stays within the file instead. Closing the view leaves the file open.

    The file ends as soon as `is_over()`: a library reads a header of a million chunks one by one
    without returning in between, and only the end of the file stops it.
    """

    def __init__(self, file: BinaryIO, offset: int, is_over: Callable[[], bool]) -> None:
        self._file = file
        self._is_over = is_over
        self._offset = offset
        self._size = max(0, file.seek(0, os.SEEK_END) - offset)
        self._position = 0

    def readable(self) -> bool:
        """Tell that the view can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that the view can be searched."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a byte of the view, or to its nearer end, and return the position."""
        base = {os.SEEK_CUR: self._position, os.SEEK_END: self._size}.get(whence, 0)
        self._position = min(max(base + offset, 0), self._size)
        return self._position

    def tell(self) -> int:
        """Return the position, in bytes from the offset."""
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` and return the number of bytes; 0 at the end and once it is over."""
        if self._is_over():
            return 0
        self._file.seek(self._offset + self._position)
        data = self._file.read(memoryview(buffer).nbytes)
        memoryview(buffer).cast("B")[: len(data)] = data
        self._position += len(data)
        return len(data)
