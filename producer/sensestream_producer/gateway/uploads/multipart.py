"""Reads multipart/form-data as it arrives: files into spools, all other parts as text.

Starlette's own parser limits neither the size of a file nor the time of a body: a client that sends
a byte a minute would hold an upload slot for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.uploads.spool import Spool

__all__ = ["File", "Form", "body_chunks", "read_form"]

_MAX_FIELDS = 200
_MAX_FIELD_BYTES = 128 * 1024  # metadata has half of that
_MAX_FILES = 64
_MIN_RATE = 1024  # bytes a second, on average
_GRACE = 60.0  # seconds before the rate counts


@dataclass(slots=True)
class File:
    """A part that is a file. `digest` is sha256:<hex>, once the whole form has been read."""

    field: str
    spool: Spool
    digest: str = ""


@dataclass(slots=True)
class Form:
    """The fields and the files of a body."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)

    def close(self) -> None:
        """Delete the files."""
        for file in self.files:
            file.spool.close()

    def text(self, name: str) -> str:
        """The last value of a field, or an empty one."""
        return self.fields.get(name, [""])[-1]

    def texts(self, name: str) -> list[str]:
        """All values of a field, under `name` or `name[]`."""
        return self.fields.get(name, []) + self.fields.get(name + "[]", [])


class _Reader:
    """Fills a form; its methods are the parser's callbacks, which get every part in pieces."""

    def __init__(self, form: Form, max_file_bytes: int) -> None:
        self._form = form
        self._max_file_bytes = max_file_bytes
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._value = b""
        self._name = ""
        self._text: bytearray | None = None
        self._fields = 0
        self.spool: Spool | None = None
        self.complete = False

    def callbacks(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in dir(self) if name.startswith("on_")}

    def on_part_begin(self) -> None:
        self._headers = {}
        self._header = self._value = b""

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise _bad("a part of the form has no name: Content-Disposition: form-data; name=…")
        self._name = options[b"name"].decode("utf-8", "replace")
        self._fields += 1
        if self._fields > _MAX_FIELDS or len(self._form.files) > _MAX_FILES:
            raise ApiError(
                413,
                "too_many_parts",
                f"a form has at most {_MAX_FIELDS} parts and {_MAX_FILES} files: send it in "
                "several calls",
            )
        if b"filename" in options:
            self.spool, self._text = Spool(), None
            self._form.files.append(File(self._name, self.spool))
        else:
            self.spool, self._text = None, bytearray()

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.spool is not None:
            self.spool.feed(data[start:end])
            if self.spool.size > self._max_file_bytes:
                raise _file_too_large(self._max_file_bytes)
        elif self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _MAX_FIELD_BYTES:
                name = self._name[:80]
                message = f"the field {name!r} has more than {_MAX_FIELD_BYTES} bytes"
                raise ApiError(413, "field_too_large", message, param=name)

    def on_part_end(self) -> None:
        if self._text is not None:
            try:
                text = self._text.decode("utf-8")
            except UnicodeDecodeError:
                raise _bad(f"the field {self._name[:80]!r} is not UTF-8") from None
            self._form.fields.setdefault(self._name, []).append(text)
        self._text = None

    def on_end(self) -> None:
        self.complete = True


@asynccontextmanager
async def read_form(request: Request, *, max_file_bytes: int, pause: float) -> AsyncIterator[Form]:
    """The form in a request's body; its files are deleted at the end of the block.

    Each file has at most `max_file_bytes`. `pause` is the longest silence, in seconds.

    Raises `ApiError`: 415 for another content type, 400 for a broken form, 413 for one beyond its
    limits, 408 for one that comes too slowly.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        message = "send the recording as multipart/form-data, such as curl -F file=@talk.wav does"
        raise ApiError(415, "unsupported_media_type", message)
    with closing(Form()) as form:
        try:
            await _read(request, options[b"boundary"], _Reader(form, max_file_bytes), pause)
        except MultipartParseError as error:
            raise _bad(f"the form cannot be read: {error}") from None
        for file in form.files:
            file.digest = await file.spool.finish()
        yield form


async def _read(request: Request, boundary: bytes, reader: _Reader, pause: float) -> None:
    parser = MultipartParser(boundary, reader.callbacks())  # type: ignore[arg-type]
    async for chunk in body_chunks(request, pause):
        parser.write(chunk)
        if reader.spool is not None:
            await reader.spool.flush()
    parser.finalize()
    if not reader.complete:
        raise _bad("the form is cut short: its last boundary is missing")


async def body_chunks(request: Request, pause: float) -> AsyncIterator[bytes]:
    """The body of a request as it arrives.

    Raises `ApiError` (408) after a silence of `pause` seconds, or below `_MIN_RATE`.
    """
    stream = request.stream().__aiter__()
    began, size = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(pause):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except ClientDisconnect:
            message = "the connection was closed within the body"
            raise ApiError(400, "disconnected", message) from None
        except TimeoutError:
            raise _slow(f"nothing came for {pause:g} seconds") from None
        size += len(chunk)
        took = time.monotonic() - began
        if took > _GRACE and size < _MIN_RATE * took:
            raise _slow(f"it came with less than {_MIN_RATE} bytes a second")
        yield chunk


def _file_too_large(limit: int) -> ApiError:
    return ApiError(
        413,
        "audio_too_large",
        f"the file has more than {limit} bytes: send a shorter or a compressed recording, or a "
        "reference to it",
        param="file",
    )


def _bad(message: str) -> ApiError:
    return ApiError(400, "bad_request", message)


def _slow(reason: str) -> ApiError:
    message = f"the body was not received: {reason}; send it again"
    return ApiError(408, "too_slow", message, headers={"Connection": "close"})
