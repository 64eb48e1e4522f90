"""API keys, kept as digests; their scopes; and a rate limit for each caller."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum

__all__ = ["ApiKey", "RateLimiter", "Scope", "find_key", "new_key"]

_KEY = re.compile(r"([A-Za-z0-9_.-]{1,64}):([a-z+]+):([0-9a-f]{64})(?::([1-9][0-9]{0,8}))?")
_MAX_CALLERS = 10_000  # whose buckets are kept; the least recent is dropped first


class Scope(StrEnum):
    """What a key permits."""

    SUBMIT = "submit"  # submit recordings and get their transcripts
    READ = "read"  # see all jobs, outcomes and figures of the pipeline
    OPERATE = "operate"  # see and replay dead letters


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the settings hold it: its digest, never the key itself."""

    name: str
    scopes: frozenset[Scope]
    digest: str  # SHA-256 in hex: safe without salt, since a key is 256 random bits
    per_minute: int | None = None

    @classmethod
    def parse(cls, text: str) -> ApiKey:
        """Parse NAME:SCOPE+SCOPE:SHA256[:PER_MINUTE]; `ValueError` for anything else."""
        match = _KEY.fullmatch(text)
        words = match[2].split("+") if match else []
        if match is None or not set(words) <= {scope.value for scope in Scope}:
            raise ValueError(
                f"{text.partition(':')[0]!r}: a key is NAME:SCOPES:SHA256[:PER_MINUTE], with the "
                f"scopes {'+'.join(Scope)} or some of them"
            )
        rate = int(match[4]) if match[4] else None
        return cls(match[1], frozenset(map(Scope, words)), match[3], rate)

    def __str__(self) -> str:
        scopes = "+".join(scope for scope in Scope if scope in self.scopes)
        rate = f":{self.per_minute}" if self.per_minute else ""
        return f"{self.name}:{scopes}:{self.digest}{rate}"


def new_key(name: str, scopes: Iterable[Scope], per_minute: int | None) -> tuple[str, ApiKey]:
    """A new random key, and its form for the settings. `per_minute` limits its requests."""
    key = f"sk-sensestream-{secrets.token_urlsafe(32)}"
    return key, ApiKey(name, frozenset(scopes), _digest(key), per_minute)


def find_key(keys: Iterable[ApiKey], presented: str) -> ApiKey | None:
    """The key with the digest of `presented`. Compares with every key, in constant time."""
    digest = _digest(presented)
    found = None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


class RateLimiter:
    """A token bucket for each caller of this gateway, which holds one minute's requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, caller: str, per_minute: int) -> float:
        """Take a token; 0.0 if there was one, else the seconds until there is one."""
        now = self._clock()
        left, since = self._buckets.pop(caller, (float(per_minute), now))
        left = min(per_minute, left + (now - since) * per_minute / 60)
        wait = 0.0 if left >= 1 else (1 - left) * 60 / per_minute
        self._buckets[caller] = (left if wait else left - 1, now)
        if len(self._buckets) > _MAX_CALLERS:
            self._buckets.popitem(last=False)
        return wait
