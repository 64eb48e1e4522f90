"""Write the body of an HTTP answer into the spool, decompressed within bounds where needed."""

from __future__ import annotations

import zlib

from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError

from sensestream_consumer.audio.policy import too_large
from sensestream_consumer.audio.sources.reference import Reference
from sensestream_consumer.audio.spool import CHUNK, Spool

__all__ = ["DecompressingWriter"]

_ZLIB_OR_GZIP = 47  # zlib's window bits: the largest window, with either header
_INFLATED = {"", "gzip", "x-gzip", "deflate"}
# IANA's registry of content codings without `identity`, and a dialect. Stores put much else into
# the header that changes no byte: `aws-chunked`, `UTF-8`, `binary`.
_CODINGS = {
    *("aes128gcm", "br", "compress", "dcb", "dcz", "deflate", "exi", "gzip", "pack200-gzip"),
    *("x-compress", "x-gzip", "zstd", "bzip2", "x-bzip2", "lzma", "xz"),
}


class DecompressingWriter:
    """Takes the bytes as they arrive; the worker asks for `identity`, but takes gzip and deflate.

    A compressed answer is written piece by piece, so that the spool's limit stops a small answer
    that expands without end. The digest is that of the decompressed bytes.
    """

    def __init__(self, reference: Reference, spool: Spool, encoding: str) -> None:
        coding = _coding(encoding)
        if coding not in _INFLATED:
            message = (
                f"{reference} answered with Content-Encoding {coding[:40]!r} though none was "
                "asked for; have it serve the file as it is"
            )
            raise RequestError(ErrorCode.AUDIO_UNAVAILABLE, message)
        self._reference = reference
        self._spool = spool
        self._compressed = bool(coding)
        self._inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
        self._received = 0

    def feed(self, data: bytes) -> None:
        """Take the bytes that have arrived; blocking."""
        self._received += len(data)
        if not self._compressed:
            self._spool.write(data)
            return
        if self._received > self._spool.limit:  # empty blocks expand to nothing, endlessly
            raise too_large(self._reference.display, self._spool.limit)
        try:
            self._inflate(data)
        except zlib.error as error:
            message = f"{self._reference} answered with bytes that are not the gzip they claim"
            raise RequestError(ErrorCode.AUDIO_UNAVAILABLE, message) from error

    def _inflate(self, data: bytes) -> None:
        full = False  # zlib may hold back output although it has taken all input
        while data or full:
            if self._inflater.eof:  # a gzip file may be several, one behind the other
                self._inflater = zlib.decompressobj(_ZLIB_OR_GZIP)
            expanded = self._inflater.decompress(data, CHUNK)
            self._spool.write(expanded)
            data = self._inflater.unconsumed_tail or self._inflater.unused_data
            full = len(expanded) == CHUNK and not self._inflater.eof

    def finish(self) -> None:
        """End the body; one that is compressed must be complete."""
        if self._compressed and self._received and not self._inflater.eof:
            message = f"{self._reference} ended in the middle of its compressed answer"
            raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message)


def _coding(header: str) -> str:
    """Return the codings in a Content-Encoding, without the words in it that are none."""
    tokens = (token.strip().lower() for token in header.split(","))
    return ", ".join(token for token in tokens if token in _CODINGS)
