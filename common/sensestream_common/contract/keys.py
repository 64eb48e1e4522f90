"""The names of a pipeline's keys in Redis: the key map of the contract, written once.

All keys of a pipeline begin with its name in literal braces, so that a Redis Cluster puts them
into one slot and a script may touch them together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from sensestream_common.contract.errors import SettingsError

__all__ = [
    "HANDED_BACK",
    "HANDED_BACK_IDLE",
    "KEY_MAP",
    "REQUESTS_GROUP",
    "WEBHOOKS_GROUP",
    "KeyKind",
    "Keys",
    "Lane",
    "Retention",
]

REQUESTS_GROUP = "workers"
WEBHOOKS_GROUP = "senders"
HANDED_BACK = "handed-back"  # the consumer that owns what any worker may take at once
HANDED_BACK_IDLE = 10**9  # milliseconds: more than any living worker's entry is ever idle

_NAME = re.compile(r"[A-Za-z0-9_.:-]+")


class Lane(StrEnum):
    """The two request streams; the high one is read first."""

    NORMAL = "normal"
    HIGH = "high"


class Retention(StrEnum):
    """What keeps a key from living forever."""

    COMMIT = "deleted by the commit that answers the request"
    TRIMMED = "trimmed by age and count, by the janitor"
    COUNT = "trimmed by count, by the janitor; emptied by replay and purge"
    DELIVERY = "deleted when delivered or given up"
    TTL = "expires"
    QUEUED = "none while its request is queued, then expires or is deleted"
    FOREVER = "one small key for as long as the pipeline exists"


@dataclass(frozen=True, slots=True)
class KeyKind:
    """One row of the key map; `pattern` follows `{name}:`, with `*` for the variable part."""

    pattern: str
    type: str
    retention: Retention


KEY_MAP: tuple[KeyKind, ...] = (
    KeyKind("requests", "stream", Retention.COMMIT),
    KeyKind("requests:high", "stream", Retention.COMMIT),
    KeyKind("transcripts", "stream", Retention.TRIMMED),
    KeyKind("trimmed", "string", Retention.FOREVER),
    KeyKind("dead", "stream", Retention.COUNT),
    KeyKind("webhooks", "stream", Retention.DELIVERY),
    KeyKind("result:*", "hash", Retention.TTL),
    KeyKind("audio:*", "string", Retention.TTL),
    KeyKind("lease:*", "string", Retention.TTL),
    KeyKind("crashes:*", "string", Retention.TTL),
    KeyKind("request:*", "hash", Retention.QUEUED),
    KeyKind("upload:*", "string", Retention.QUEUED),
    KeyKind("recogniser", "string", Retention.TTL),
    KeyKind("reuse-policy", "hash", Retention.TTL),
    KeyKind("worker:*", "hash", Retention.TTL),
    KeyKind("janitor", "string", Retention.TTL),
    KeyKind("warmed:*", "string", Retention.TTL),
    KeyKind("stats", "hash", Retention.FOREVER),
)


class Keys:
    """The keys of the pipeline called `name`.

    Raises `SettingsError` for a name that other clients could not write into a key.
    """

    def __init__(self, name: str) -> None:
        if not _NAME.fullmatch(name):
            raise SettingsError(
                f"{name!r} is no name for a pipeline: use letters, digits and _ . : - "
                "(setting SENSESTREAM_PIPELINE)"
            )
        self.name = name
        self.prefix = f"{{{name}}}:"
        self.requests = self.prefix + "requests"
        self.requests_high = self.prefix + "requests:high"
        self.transcripts = self.prefix + "transcripts"
        self.trimmed = self.prefix + "trimmed"
        self.dead = self.prefix + "dead"
        self.webhooks = self.prefix + "webhooks"
        self.recogniser = self.prefix + "recogniser"
        self.reuse_policy = self.prefix + "reuse-policy"
        self.janitor = self.prefix + "janitor"
        self.stats = self.prefix + "stats"
        # Stands for "no such key" in a script's KEYS, which may not be empty; never written.
        self.none = self.prefix + "none"

    def __repr__(self) -> str:
        return f"Keys({self.name!r})"

    @property
    def channel(self) -> str:
        """The pub/sub channel of live outcomes (channels and keys do not clash)."""
        return self.transcripts

    @property
    def upload_prefix(self) -> str:
        """The beginning of the keys of uploaded bytes."""
        return self.prefix + "upload:"

    @property
    def audio_prefix(self) -> str:
        """The beginning of all aliases, of any decode revision."""
        return self.prefix + "audio:"

    def lane(self, lane: Lane) -> str:
        """The stream of a lane."""
        return self.requests_high if lane is Lane.HIGH else self.requests

    def result(self, identity: str) -> str:
        """The hash of a cached result."""
        return f"{self.prefix}result:{identity}"

    def audio(self, digest: str, revision: str) -> str:
        """The alias of the bytes with this digest, as decoders of this revision read them."""
        return f"{self.audio_prefix}{revision}:{digest}"

    def lease(self, identity: str) -> str:
        """The lease of the worker that transcribes it."""
        return f"{self.prefix}lease:{identity}"

    def warmed(self, mark: str) -> str:
        """The mark of a warm-up list that was warmed."""
        return f"{self.prefix}warmed:{mark}"

    def crashes(self, identity: str) -> str:
        """The count of the workers that died on it."""
        return f"{self.prefix}crashes:{identity}"

    def request(self, request_id: str) -> str:
        """The hash with a request's state."""
        return f"{self.prefix}request:{request_id}"

    def upload(self, request_id: str) -> str:
        """The uploaded bytes of a request."""
        return f"{self.prefix}upload:{request_id}"

    def worker(self, consumer: str) -> str:
        """The hash with which a worker shows that it lives."""
        return f"{self.prefix}worker:{consumer}"
