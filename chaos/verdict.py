"""The count at the end of a run: what was submitted against what came out, and what is left."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sensestream_common.contract.keys import REQUESTS_GROUP, Keys
from sensestream_consumer.settings import WorkerSettings

from chaos.ledger import Ledger, Subscriber
from chaos.retention import count_by_kind, retention_faults

__all__ = ["Verdict", "await_nothing_held", "beyond_two_seconds", "left_behind"]

_HELPERS = ("crashes:*", "upload:*", "worker:*")
_PASSING = 10.0  # seconds: more than any lease or worker's key lives in a run without its owner
# How old a write may be that a killed Redis with `everysec` has lost, and how late a thread of ours
# may note, on a busy machine, what had happened before.
_EVERYSEC = 2.0
_SLACK = 1.0


@dataclass(frozen=True)
class Verdict:
    """The figures a run ends with; `passed` when each of them is what it must be.

    `foreign` counts outcomes of ids that nobody submitted, `helpers` the keys of workers, crashes
    and uploads, of which an idle pipeline has none, and `without_retention` keys that the key map
    does not know or that will not end as it says.
    """

    submitted: int
    outcomes: int
    duplicates: int
    lost: int
    foreign: int
    backlog: int
    pending: int
    leases: int
    helpers: int
    without_retention: int

    @property
    def clean(self) -> bool:
        """Whether nothing is left behind."""
        return not any(
            (self.backlog, self.pending, self.leases, self.helpers, self.without_retention)
        )

    @property
    def passed(self) -> bool:
        exactly_once = not any((self.duplicates, self.lost, self.foreign))
        return self.clean and exactly_once and self.submitted == self.outcomes

    def __str__(self) -> str:
        return json.dumps(asdict(self) | {"passed": self.passed})

    @classmethod
    def of(
        cls,
        redis: Any,
        keys: Keys,
        submitted: Counter[str],
        seen: Counter[str],
        settings: WorkerSettings | None = None,
    ) -> Verdict:
        """Count requests and outcomes by id; look at a pipeline whose workers have ended."""
        lanes = (keys.requests, keys.requests_high)
        kinds = count_by_kind(redis, keys)
        surplus = seen - submitted
        return cls(
            submitted=submitted.total(),
            outcomes=seen.total(),
            duplicates=sum(count for name, count in surplus.items() if name in submitted),
            lost=(submitted - seen).total(),
            foreign=sum(count for name, count in surplus.items() if name not in submitted),
            backlog=sum(redis.xlen(lane) for lane in lanes),
            pending=sum(redis.xpending(lane, REQUESTS_GROUP)["pending"] for lane in lanes),
            leases=kinds["lease:*"],
            helpers=sum(kinds[kind] for kind in _HELPERS),
            without_retention=len(retention_faults(redis, keys, settings or WorkerSettings())),
        )


def left_behind(redis: Any, keys: Keys) -> list[str]:
    """The keys that an idle pipeline has none of, by name, with the seconds they have left."""
    found = [
        key.decode("utf-8", "replace")
        for kind in ("lease:*", *_HELPERS)
        for key in redis.scan_iter(f"{keys.prefix}{kind}", count=1000)
    ]
    return [f"{key} ({redis.ttl(key)} s)" for key in sorted(found)]


def await_nothing_held(redis: Any, keys: Keys) -> None:
    """Until what killed workers held, and what a fault spoilt for some seconds, has run out."""
    deadline = time.monotonic() + _PASSING
    while time.monotonic() < deadline:
        kinds = count_by_kind(redis, keys)
        held = any(kinds[kind] for kind in ("lease:*", *_HELPERS))
        # An alias of the wrong type stays while every worker answers from its local cache.
        if not held and not retention_faults(redis, keys, WorkerSettings()):
            return
        time.sleep(0.1)


def beyond_two_seconds(ledger: Ledger, subscriber: Subscriber, kills: Sequence[float]) -> int:
    """How many losses and duplicates `everysec` does not excuse.

    A request may be lost that was acknowledged, and an outcome may come twice, with the same
    `entry`, that had been read, less than two seconds before Redis was killed.
    """
    lost = ledger.submitted - subscriber.by_id
    again = Counter({key: count - 1 for key, count in subscriber.by_entry.items() if count > 1})
    wrong = sum(not _excused(ledger.acknowledged[name], kills) for name in lost)
    wrong += sum(not _excused(subscriber.first_seen[name], kills) for name, _ in again)
    told = Counter({name: count for (name, _), count in again.items()})
    return wrong + (subscriber.by_id - ledger.submitted - told).total()


def _excused(moment: float, kills: Sequence[float]) -> bool:
    return any(-_SLACK <= kill - moment <= _EVERYSEC + _SLACK for kill in kills)
