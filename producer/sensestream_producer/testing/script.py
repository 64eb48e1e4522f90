"""The scripted answers, by recording."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote_to_bytes

from sensestream_common.contract.alias import AudioWarning
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.request import Request
from sensestream_common.contract.transcript import Segment, Transcript

__all__ = ["Answer", "Script", "ScriptedResult", "before_start", "digest_of"]

Answer: TypeAlias = (
    str | Transcript | ErrorCode | RequestError | Callable[[Request], "str | Transcript"]
)
"""A text, a whole transcript, an error, or a function that gives one of these or raises one."""

_SCHEMES = frozenset({"file", "http", "https", "s3", "redis", "data"})

# Found before a worker starts to transcribe, so that the outcome's `attempt` is 0.
_BEFORE_START = frozenset(
    {
        ErrorCode.BAD_REQUEST,
        ErrorCode.UNSUPPORTED_LANGUAGE,
        ErrorCode.AUDIO_NOT_FOUND,
        ErrorCode.AUDIO_FORBIDDEN,
        ErrorCode.AUDIO_UNAVAILABLE,
        ErrorCode.AUDIO_TOO_LARGE,
        ErrorCode.DIGEST_MISMATCH,
        ErrorCode.EXPIRED,
    }
)


def before_start(error: RequestError) -> bool:
    """Whether a worker finds this error before it starts to transcribe."""
    return error.code in _BEFORE_START


def digest_of(content: bytes) -> str:
    """The digest of these bytes, as requests name it."""
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


@dataclass(frozen=True, slots=True)
class ScriptedResult:
    """A transcript, and the warnings about the bytes that it was made from."""

    transcript: Transcript
    warnings: tuple[AudioWarning, ...] = ()


class Script:
    """Looks an answer up by reference, then by content, then takes the default."""

    def __init__(self, default: Answer) -> None:
        self.default = default
        self._answers: dict[str, Answer] = {}
        self._warnings: dict[str, tuple[AudioWarning, ...]] = {}
        self._contents: dict[str, str] = {}

    def answer(
        self, audio: str | Path | bytes, answer: Answer, warnings: Sequence[AudioWarning] = ()
    ) -> None:
        """Set the answer to a reference, a digest, a file or its bytes, and warnings about them."""
        key = audio if isinstance(audio, str) else _content(audio)
        self._answers[key] = answer
        self._warnings[key] = tuple(warnings)

    def contain(self, reference: str, content: Path | bytes) -> None:
        """Set the bytes behind a reference."""
        self._contents[reference] = _content(content)

    def digest(self, request: Request, uploads: dict[str, bytes]) -> str:
        """The digest of the referenced bytes; `RequestError` where a worker would find none.

        Where the content of a reference is not known, the sender's digest is taken; without one
        it is derived from the reference, so that equal references hold equal recordings.
        """
        scheme = request.audio.partition(":")[0].lower()
        if request.audio in self._contents:
            found = self._contents[request.audio]
        elif scheme == "redis":
            found = _uploaded(request.audio, uploads)
        elif scheme == "data":
            found = digest_of(_inline(request.audio))
        elif scheme in _SCHEMES or request.audio in self._answers:
            found = request.digest or digest_of(request.audio.encode())
        else:
            raise RequestError(ErrorCode.BAD_REQUEST, f"audio has the scheme {scheme!r}")
        if request.digest and request.digest != found:
            raise RequestError(
                ErrorCode.DIGEST_MISMATCH,
                f"digest={request.digest} was promised, but the bytes read have {found}: "
                "send the digest of these bytes, or none",
            )
        return found

    def refusal(self, request: Request, digest: str) -> RequestError | None:
        """The scripted error, if a worker finds it before it starts to transcribe."""
        error = _error(self._find(request, digest))
        return error if error and before_start(error) else None

    def transcribe(self, request: Request, digest: str) -> ScriptedResult:
        """The scripted result; raises the scripted error as a `RequestError`."""
        answer = self._find(request, digest)
        if error := _error(answer):
            raise error
        if callable(answer):
            try:
                answer = answer(request)
            except RequestError:
                raise
            except Exception as error:
                raise RequestError(
                    ErrorCode.INTERNAL, f"the scripted recogniser failed: {error!r}"
                ) from error
        if not isinstance(answer, Transcript):
            answer = _transcript(str(answer), request)
        return ScriptedResult(answer, self._warnings.get(self._key(request, digest), ()))

    def _find(self, request: Request, digest: str) -> Answer:
        return self._answers.get(self._key(request, digest), self.default)

    def _key(self, request: Request, digest: str) -> str:
        return request.audio if request.audio in self._answers else digest


def _content(audio: Path | bytes) -> str:
    return digest_of(audio if isinstance(audio, bytes) else audio.read_bytes())


def _uploaded(audio: str, uploads: dict[str, bytes]) -> str:
    content = uploads.get(audio.removeprefix("redis:"))
    if content is None:
        raise RequestError(ErrorCode.AUDIO_NOT_FOUND, f"{audio} holds nothing")
    return digest_of(content)


def _inline(audio: str) -> bytes:
    head, _, body = audio.partition(",")
    content = unquote_to_bytes(body)
    if not head.endswith(";base64"):
        return content
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error as error:
        raise RequestError(ErrorCode.BAD_REQUEST, f"{head}: {error}") from None


def _error(answer: Answer) -> RequestError | None:
    if isinstance(answer, ErrorCode):
        return RequestError(answer, f"the scripted recogniser answers {answer.value}")
    return answer if isinstance(answer, RequestError) else None


def _transcript(text: str, request: Request) -> Transcript:
    """A second of neutral speech with this text."""
    return Transcript(
        text=text,
        language="en" if request.language == "auto" else request.language,
        emotion="NEUTRAL",
        events=("Speech",),
        segments=(Segment(0.0, 1.0, text),) if text else (),
        confidence=1.0,
        duration=1.0,
    )
