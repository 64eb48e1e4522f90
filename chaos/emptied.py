"""The second act: FLUSHALL under load, again and again.

What was present at such an instant is out of the count. Of the rest: no process ends, nothing comes
twice, and everything submitted afterwards has its outcome.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import asdict, dataclass, field

from chaos.ledger import Ledger
from chaos.producer import Mix, producing
from chaos.target import Target
from chaos.verdict import Verdict, await_nothing_held

__all__ = ["Emptied", "empty_under_load"]

_PERIOD = 3.0  # seconds between two: long enough to transcribe a good deal anew
_DRAIN = 120.0  # seconds that the workers may take for what is left


@dataclass
class Emptied:
    """What came of it: ids that were present when Redis was emptied, and outcomes by id."""

    times: int = 0
    ended: int = 0  # processes that have ended
    forgotten: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    verdict: Verdict | None = None

    @property
    def passed(self) -> bool:
        return self.verdict is not None and self.verdict.passed and not self.ended

    def __str__(self) -> str:
        facts = {"emptied": self.times, "forgotten": len(self.forgotten), "ended": self.ended}
        counted = asdict(self.verdict) if self.verdict else {}
        return json.dumps(facts | counted | {"passed": self.passed})


def empty_under_load(target: Target, mix: Mix, seconds: float, seed: str) -> Emptied:
    """Load workers that stay alive for so long, empty Redis meanwhile, and end the workers."""
    ledger, act = Ledger(), Emptied()
    target.redis.flushall()  # what the first act has left
    began = time.monotonic()
    with producing(target.server.url, ledger, mix, f"emptied-{seed}"):
        while time.monotonic() < began + seconds:
            time.sleep(_PERIOD)
            _empty(target, act)
        time.sleep(_PERIOD)  # and some more, of which nothing is forgotten
    _await_the_end(target)
    act.outcomes.update(_ids(target.redis.xrange(target.keys.transcripts)))
    act.ended = target.workers.ended()
    target.workers.end()
    for name in act.forgotten:
        del ledger.submitted[name], act.outcomes[name]
    await_nothing_held(target.redis, target.keys)
    act.verdict = Verdict.of(target.redis, target.keys, ledger.submitted, act.outcomes)
    return act


def _empty(target: Target, act: Emptied) -> None:
    """FLUSHALL, and in the same step what waits and what has been answered."""
    pipe = target.redis.pipeline(transaction=True)
    for key in (target.keys.requests, target.keys.requests_high, target.keys.transcripts):
        pipe.xrange(key)
    waiting, waiting_high, answered, _ = pipe.flushall().execute()
    act.times += 1
    act.forgotten.update(_ids(waiting), _ids(waiting_high))
    act.outcomes.update(_ids(answered))


def _await_the_end(target: Target) -> None:
    deadline = time.monotonic() + _DRAIN
    lanes = (target.keys.requests, target.keys.requests_high)
    while any(target.redis.xlen(lane) for lane in lanes) and time.monotonic() < deadline:
        time.sleep(0.1)


def _ids(entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[str]:
    return [fields[b"id"].decode() for _, fields in entries]
