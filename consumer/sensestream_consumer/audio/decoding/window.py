"""The file as the C libraries see it: from an offset on, and never raising into them."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

__all__ = ["Window"]


class Window(io.RawIOBase):
    """A read-only view of `file` from `offset` on.

    A lying header makes a library seek before the beginning or beyond what an offset can hold.
    Python's files raise then, which libsndfile's callbacks can only print to stderr; here the
    position is held within the file instead. Closing the view leaves the file open.

    Once `is_over` says so the file ends here: a header of a million chunks, each of which is
    read on its own, keeps a library from ever coming back to us by itself.
    """

    def __init__(self, file: BinaryIO, offset: int, is_over: Callable[[], bool]) -> None:
        self._file = file
        self._is_over = is_over
        self._offset = offset
        self._size = max(0, file.seek(0, os.SEEK_END) - offset)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_CUR: self._position, os.SEEK_END: self._size}.get(whence, 0)
        self._position = min(max(base + offset, 0), self._size)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        if self._is_over():
            return 0
        self._file.seek(self._offset + self._position)
        data = self._file.read(memoryview(buffer).nbytes)
        memoryview(buffer).cast("B")[: len(data)] = data
        self._position += len(data)
        return len(data)
