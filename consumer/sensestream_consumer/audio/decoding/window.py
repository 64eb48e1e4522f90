"""The view of a file that the C libraries get: a part of it, and never raising into them."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from _typeshed import WriteableBuffer

__all__ = ["SeekableView"]


class SeekableView(io.RawIOBase):
    """A read-only view of `file` from byte `start` to byte `end`.

    A lying header makes a library seek before the beginning or beyond what an offset can hold.
    Python's files raise then, and libsndfile's callbacks can only print that to stderr; here the
    position stays within the view instead. Closing the view leaves the file open.

    The view ends as soon as `is_over()`: a library reads a header of a million chunks one by one
    without returning in between, and only the end of the file stops it.

    Args:
        file: the file.
        start: the view's first byte.
        end: the byte behind its last one; None for the end of the file.
        is_over: tells that no more may be read.
        patches: bytes that are read instead of the file's, by their position in the view. A
            header that lies is corrected so.
    """

    def __init__(
        self,
        file: BinaryIO,
        start: int,
        end: int | None,
        is_over: Callable[[], bool],
        patches: Mapping[int, bytes] | None = None,
    ) -> None:
        size = file.seek(0, os.SEEK_END)
        self._file = file
        self._is_over = is_over
        self._start = start
        self._patches = dict(patches or {})
        self._position = 0
        self.size = max(0, (size if end is None else min(end, size)) - start)
        self.furthest = 0  # the byte behind the last one that was read

    def patched(self, patches: Mapping[int, bytes]) -> SeekableView:
        """Return a view of the same bytes with further patches."""
        end = self._start + self.size
        return SeekableView(
            self._file, self._start, end, self._is_over, {**self._patches, **patches}
        )

    def readable(self) -> bool:
        """Tell that the view can be read."""
        return True

    def seekable(self) -> bool:
        """Tell that the view can be searched."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move to a byte of the view, or to its nearer end, and return the position."""
        base = {os.SEEK_CUR: self._position, os.SEEK_END: self.size}.get(whence, 0)
        self._position = min(max(base + offset, 0), self.size)
        return self._position

    def tell(self) -> int:
        """Return the position, in bytes from the view's start."""
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill `buffer` and return the number of bytes; 0 at the end and once it is over."""
        if self._is_over():
            return 0
        into = memoryview(buffer).cast("B")
        self._file.seek(self._start + self._position)
        data = self._file.read(min(len(into), self.size - self._position))
        into[: len(data)] = data
        self._patch(into[: len(data)])
        self._position += len(data)
        self.furthest = max(self.furthest, self._position)
        return len(data)

    def _patch(self, part: memoryview) -> None:
        for at, new in self._patches.items():
            first = max(at, self._position)
            last = min(at + len(new), self._position + len(part))
            if first < last:
                part[first - self._position : last - self._position] = new[first - at : last - at]
