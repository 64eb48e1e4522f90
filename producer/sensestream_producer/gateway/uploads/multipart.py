"""multipart/form-data, read as it comes: files into spools, everything else as text.

Starlette's own parser writes files before anybody knows how large or which they are, and has no
patience of its own: a caller who sends a byte a minute would hold a place for ever.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.uploads.spool import Spool

__all__ = ["File", "Form", "FormLimits", "body_chunks", "read_form"]

_MAX_FIELDS = 200
_MAX_FIELD_BYTES = 128 * 1024  # metadata has half of that
_MAX_FILES = 64
_SLOWEST = 1024  # bytes a second, on the average
_GRACE = 60.0  # seconds before anybody looks at the pace


@dataclass(frozen=True, slots=True)
class FormLimits:
    """Of one body: `file_bytes` for each file; `pause` is the longest silence, in seconds."""

    file_bytes: int
    pause: float


@dataclass(slots=True)
class File:
    """A part that is a file; `digest` is there when the form has been read."""

    field: str
    name: str
    spool: Spool
    digest: str = ""


@dataclass(slots=True)
class Form:
    """What a body held. Leave its `with` block to let go of the files."""

    fields: dict[str, list[str]] = field(default_factory=dict)
    files: list[File] = field(default_factory=list)
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def add_file(self, part: str, name: str) -> Spool:
        spool = self._stack.enter_context(Spool())
        self.files.append(File(part, name, spool))
        return spool

    def text(self, name: str, default: str = "") -> str:
        """The last value of a field."""
        return self.fields.get(name, [default])[-1]

    def texts(self, name: str) -> list[str]:
        """All values of a field, under `name` or `name[]`."""
        return self.fields.get(name, []) + self.fields.get(name + "[]", [])


class _Reader:
    """The parser's callbacks, which tell of parts in pieces."""

    def __init__(self, form: Form, limits: FormLimits) -> None:
        self._form = form
        self._limits = limits
        self._header = b""
        self._headers: dict[bytes, bytes] = {}
        self._value = b""
        self._name = ""
        self._text: bytearray | None = None
        self._fields = 0
        self.spool: Spool | None = None
        self.complete = False

    def callbacks(self) -> dict[str, object]:
        names = (
            "part_begin", "part_data", "part_end",
            "header_field", "header_value", "header_end", "headers_finished", "end",
        )  # fmt: skip
        return {f"on_{name}": getattr(self, f"_on_{name}") for name in names}

    def _on_part_begin(self) -> None:
        self._headers = {}
        self._header = self._value = b""

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._header.lower()] = self._value
        self._header = self._value = b""

    def _on_headers_finished(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"")
        _, options = parse_options_header(disposition)
        if b"name" not in options:
            raise _bad("a part of the form has no name: Content-Disposition: form-data; name=…")
        self._name = options[b"name"].decode("utf-8", "replace")
        self._fields += 1
        if self._fields > _MAX_FIELDS or len(self._form.files) > _MAX_FILES:
            raise ApiError(
                413, "too_many_parts",
                f"a form has at most {_MAX_FIELDS} parts and {_MAX_FILES} files: send it in "
                "several calls",
            )  # fmt: skip
        if b"filename" in options:
            name = options[b"filename"].decode("utf-8", "replace")
            self.spool, self._text = self._form.add_file(self._name, name), None
        else:
            self.spool, self._text = None, bytearray()

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self.spool is not None:
            self.spool.feed(data[start:end])
            if self.spool.size > self._limits.file_bytes:
                raise file_too_large(self._limits.file_bytes)
        elif self._text is not None:
            self._text += data[start:end]
            if len(self._text) > _MAX_FIELD_BYTES:
                raise ApiError(
                    413, "field_too_large",
                    f"the field {self._name[:80]!r} has more than {_MAX_FIELD_BYTES} bytes",
                    param=self._name[:80],
                )  # fmt: skip

    def _on_part_end(self) -> None:
        if self._text is not None:
            try:
                text = self._text.decode("utf-8")
            except UnicodeDecodeError:
                raise _bad(f"the field {self._name[:80]!r} is not UTF-8") from None
            self._form.fields.setdefault(self._name, []).append(text)
        self._text = None

    def _on_end(self) -> None:
        self.complete = True


async def read_form(request: Request, limits: FormLimits) -> Form:
    """The form in a request's body.

    Raises `ApiError` for a body that is none, is too large, stops short or comes too slowly.
    """
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind != b"multipart/form-data" or not options.get(b"boundary"):
        raise ApiError(
            415, "unsupported_media_type",
            "send the recording as multipart/form-data, such as curl -F file=@talk.wav does",
        )  # fmt: skip
    form = Form()
    reader = _Reader(form, limits)
    try:
        parser = MultipartParser(options[b"boundary"], reader.callbacks())  # type: ignore[arg-type]
        async for chunk in body_chunks(request, limits.pause):
            parser.write(chunk)
            if reader.spool is not None:
                await reader.spool.settle()
        parser.finalize()
        if not reader.complete:
            raise _bad("the form is cut short: its last boundary is missing")
        for file in form.files:
            file.digest = await file.spool.finish()
    except MultipartParseError as error:
        form.__exit__(None, None, None)
        raise _bad(f"the form cannot be read: {error}") from None
    except BaseException:
        form.__exit__(None, None, None)
        raise
    return form


async def body_chunks(request: Request, pause: float) -> AsyncIterator[bytes]:
    """The body as it comes; `ApiError` (408) after a silence of `pause` seconds, or at a crawl."""
    stream = request.stream().__aiter__()
    began, size = time.monotonic(), 0
    while True:
        try:
            async with asyncio.timeout(pause):
                chunk = await anext(stream)
        except StopAsyncIteration:
            return
        except ClientDisconnect:
            raise ApiError(
                400, "disconnected", "the connection was closed within the body"
            ) from None
        except TimeoutError:
            raise _slow(f"nothing came for {pause:g} seconds") from None
        size += len(chunk)
        took = time.monotonic() - began
        if took > _GRACE and size < _SLOWEST * took:
            raise _slow(f"it comes with less than {_SLOWEST} bytes a second")
        yield chunk


def file_too_large(limit: int) -> ApiError:
    return ApiError(
        413, "audio_too_large",
        f"the file has more than {limit} bytes: send a shorter or a compressed recording, or a "
        "reference to it",
        param="file",
    )  # fmt: skip


def _bad(message: str) -> ApiError:
    return ApiError(400, "bad_request", message)


def _slow(what: str) -> ApiError:
    return ApiError(
        408, "too_slow", f"the body was not received: {what}; send it again",
        headers={"Connection": "close"},
    )  # fmt: skip
