"""Dead letters: failed requests, kept whole, to be inspected, replayed or purged."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import partial
from typing import Any

from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.redaction import redacted

from sensestream_producer.outcomes.stream_ids import entries, id_text, parse_id
from sensestream_producer.transport import RedisTransport

__all__ = ["DeadLetter", "DeadLetterFilter", "DeadLetters", "Replay", "ReplayResult"]

_REPLAY = load_script("sensestream_producer.operations", "replay")
_PURGE = load_script("sensestream_producer.operations", "purge")
_MARK = b"dead:"
_PAGE = 200
_ADDRESSES = ("audio", "callback_url")  # fields that may carry a password or a signature


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A failed request that a person can fix.

    `letter` is the letter's own stream id. `fields` are the request's, as they were sent. `about`
    has the error, its message and more, without the prefix `dead:`.
    """

    letter: str
    fields: Mapping[bytes, bytes]
    about: Mapping[str, str]

    @classmethod
    def from_entry(cls, letter: bytes, raw: Mapping[bytes, bytes]) -> DeadLetter:
        """The letter in an entry of the stream."""
        return cls(
            letter=letter.decode(),
            fields={name: value for name, value in raw.items() if not name.startswith(_MARK)},
            about={
                _text(name.removeprefix(_MARK)): _text(value)
                for name, value in raw.items()
                if name.startswith(_MARK)
            },
        )

    @property
    def id(self) -> str:
        """The request's id: the caller's, or the entry's own."""
        given = _text(self.fields.get(b"id", b""))
        return given or self.about.get("entry", "")

    @property
    def audio(self) -> str:
        """The request's audio reference, unredacted."""
        return _text(self.fields.get(b"audio", b""))

    @property
    def error(self) -> str:
        """The error's code, such as `audio_not_found`."""
        return self.about.get("error", "")

    @property
    def message(self) -> str:
        """The error in a sentence."""
        return self.about.get("message", "")

    @property
    def lane(self) -> Lane:
        """The lane to which a replay returns the request."""
        return Lane.HIGH if self.about.get("lane") == Lane.HIGH else Lane.NORMAL

    @property
    def at(self) -> int:
        """The time of the failure, in milliseconds since the epoch."""
        at = self.about.get("at", "")
        return int(at) if at.isdecimal() else parse_id(self.letter)[0]

    def to_json(self, *, secrets: bool = True) -> dict[str, Any]:
        """The letter as a JSON object; without `secrets` addresses are redacted."""
        fields = {
            name.decode("utf-8", "backslashreplace"): value.decode("utf-8", "backslashreplace")
            for name, value in self.fields.items()
        }
        if not secrets:
            fields |= {name: redacted(fields[name]) for name in _ADDRESSES if name in fields}
        return {
            "letter": self.letter,
            "id": self.id,
            **{name: value for name, value in self.about.items() if name != "at"},
            "at": self.at,
            "request": fields,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterFilter:
    """Selects letters that meet every condition given; without any, all of them.

    `ids` are request ids or the letters' own; `errors` are codes; ages are by Redis's clock.
    """

    ids: frozenset[str] = field(default_factory=frozenset)
    errors: frozenset[str] = field(default_factory=frozenset)
    older_than: timedelta | None = None
    newer_than: timedelta | None = None

    def takes(self, letter: DeadLetter, now: int) -> bool:
        """Whether the letter meets every condition; `now` in milliseconds since the epoch."""
        age = timedelta(milliseconds=now - letter.at)
        return (
            (not self.ids or letter.id in self.ids or letter.letter in self.ids)
            and (not self.errors or letter.error in self.errors)
            and (self.older_than is None or age >= self.older_than)
            and (self.newer_than is None or age <= self.newer_than)
        )


class Replay(StrEnum):
    """The result of a replay; the letter is removed by `QUEUED` alone."""

    QUEUED = "queued"
    NOT_FOUND = "not_found"  # replayed or purged before
    ALREADY_QUEUED = "already_queued"  # the id was submitted again
    ALREADY_COMPLETED = "already_completed"  # the id was submitted again, and completed
    FULL = "full"  # the backlog has no room
    UPLOAD_MISSING = "upload_missing"  # the uploaded bytes are no longer kept
    EXPIRED = "expired"  # the deadline has passed


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """`detail` is the new entry when queued, or the entry, outcome or backlog in the way."""

    letter: DeadLetter
    result: Replay
    detail: str = ""

    @property
    def sentence(self) -> str:
        """The result in a sentence for people."""
        return f"{self.letter.id}: {_SENTENCES[self.result].format(self.detail)}"


_SENTENCES = {
    Replay.QUEUED: "queued again as {}",
    Replay.NOT_FOUND: "not replayed, it was replayed or purged before",
    Replay.ALREADY_QUEUED: "not replayed, a request with this id is queued already, as {}",
    Replay.ALREADY_COMPLETED: "a later request with this id is completed (outcome {}): purge it",
    Replay.FULL: "not replayed, the backlog is full ({} requests): try again later",
    Replay.UPLOAD_MISSING: "not replayed, its uploaded bytes are gone: upload the file again",
    Replay.EXPIRED: "not replayed, its deadline has passed: --ignore-deadline sends it without",
}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class DeadLetters:
    """The dead letters of one pipeline."""

    def __init__(self, link: RedisTransport, keys: Keys, *, max_backlog: int) -> None:
        self._link = link
        self._keys = keys
        self._max_backlog = max_backlog

    async def select(self, selection: DeadLetterFilter | None = None) -> AsyncGenerator[DeadLetter]:
        """Yield the selected letters, oldest first.

        Raises `RedisUnavailable` after `retry_timeout` seconds of an outage, as all methods do.
        """
        wanted = selection or DeadLetterFilter()
        redis = self._link.redis
        seconds, micros = await self._link.run(redis.time)
        start = "-"
        while True:
            page = await self._link.run(
                partial(entries, redis, self._keys.dead, start, count=_PAGE)
            )
            for entry, raw in page:
                letter = DeadLetter.from_entry(entry, raw)
                if wanted.takes(letter, seconds * 1000 + micros // 1000):
                    yield letter
            if len(page) < _PAGE:
                return
            milliseconds, number = parse_id(page[-1][0])
            start = id_text((milliseconds, number + 1))

    async def find(self, letter: str) -> DeadLetter | None:
        """The letter with this stream id, or `None`."""
        try:
            position = id_text(parse_id(letter))
        except SensestreamError:
            return None
        found = await self._link.run(
            lambda: entries(self._link.redis, self._keys.dead, position, position)
        )
        return DeadLetter.from_entry(*found[0]) if found else None

    async def replay(self, letter: DeadLetter, *, ignore_deadline: bool = False) -> ReplayResult:
        """Queue the request again as it was sent, and remove the letter, in one step.

        `ignore_deadline` leaves out a deadline that has passed. The result says why a letter was
        not replayed; it then stays.
        """
        request, upload = self._own_keys(letter)
        none = self._keys.none
        keys = [self._keys.dead, self._keys.requests, self._keys.requests_high]
        digest = letter.about.get("digest", "")
        keys += [request or none, self._keys.stats, upload or none]
        keys += [self._keys.crashes(digest) if digest else none]
        arguments = [
            letter.letter,
            self._max_backlog,
            int(bool(request)),
            int(bool(upload)),
            int(ignore_deadline),
        ]
        answer = await self._run(_REPLAY, keys, arguments)
        detail = answer[1] if len(answer) > 1 else ""
        text = detail.decode() if isinstance(detail, bytes) else str(detail)
        return ReplayResult(letter, Replay(answer[0].decode()), text)

    async def purge(self, letter: DeadLetter) -> bool:
        """Remove a letter and its uploaded bytes; returns whether it still existed."""
        request, upload = self._own_keys(letter)
        none = self._keys.none
        keys = [self._keys.dead, request or none, upload or none]
        return bool(await self._run(_PURGE, keys, [letter.letter]))

    async def _run(self, script: Any, keys: list[str], arguments: list[Any]) -> Any:
        # Safe to send again: the second time there is no letter.
        return await self._link.run(lambda: script(self._link.redis, keys, arguments))

    def _own_keys(self, letter: DeadLetter) -> tuple[str, str]:
        """The keys of its request and of its upload; empty where it has none."""
        given = _text(letter.fields.get(b"id", b""))
        upload = self._keys.upload(letter.id)
        return (
            self._keys.request(given) if given else "",
            upload if letter.audio == f"redis:{upload}" else "",
        )
