"""`python -m chaos.failover`: kill the master under load, and count what the failover took back.

Redis replicates after it has answered. What a killed master had acknowledged and not yet sent to
its replica is gone, whatever clients and workers do; this measures how much that is. Each round
has a master, a replica and three sentinels of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome
from sensestream_producer import Client, Gap

from chaos.ledger import Ledger
from chaos.producer import Mix, producing
from chaos.sentinels import SentinelSet
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

KEYS = Keys("sensestream")
_RECLAIM_AFTER = 1.5  # seconds, as in chaos.run
_DRAIN = 60.0  # seconds for what is left when the producers have ended


@dataclass(frozen=True)
class Round:
    """What one failover did to the requests that a master had acknowledged."""

    submitted: int
    lost: int
    doubled: int
    gaps: int
    pending: int
    seconds_without_master: float

    @property
    def went_on(self) -> bool:
        """Whether the pipeline drained: what was submitted afterwards has its outcome."""
        return self.pending == 0


class Follower(threading.Thread):
    """Follows the outcomes through the client, as a subscriber does, and keeps all."""

    def __init__(self, url: str) -> None:
        super().__init__(name="follower", daemon=True)
        self.outcomes: list[Outcome] = []
        self.gaps = 0
        self.started = threading.Event()
        self._url = url

    def run(self) -> None:
        asyncio.run(self._follow())

    async def _follow(self) -> None:
        async with Client(self._url) as client:
            await client.position()
            self.started.set()
            async for event in client.follow("0"):
                if isinstance(event, Gap):
                    self.gaps += 1
                else:
                    self.outcomes.append(event.outcome)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="chaos.failover", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="failovers (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="of requests and of the moment")
    parser.add_argument(
        "--lag",
        type=float,
        default=0.0,
        help="seconds that the replica is behind when the master dies (default 0)",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--producers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="requests a producer sends at once")
    parser.add_argument("--misses", type=float, default=0.05, help="share with ttl 0")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    folder = Path(tempfile.mkdtemp(prefix="sensestream-failover-"))
    clips = [write_clip(folder, number, 0.3) for number in range(100)]
    rounds = []
    for number in range(options.rounds):
        options.seed += number
        rounds.append(one_round(options, folder, clips))
        print(f"round {number + 1}: {json.dumps(asdict(rounds[-1]))}", flush=True)
    print(json.dumps(summary(rounds)))
    if not all(each.went_on for each in rounds):
        print(f"the work did not go on; the workers' logs are in {folder}", file=sys.stderr)
        return 1
    shutil.rmtree(folder)
    return 0


def one_round(options: argparse.Namespace, folder: Path, clips: list[str]) -> Round:
    draw = random.Random(options.seed)
    ledger = Ledger()
    mix = Mix(clips, options.producers, options.batch, options.misses)
    with SentinelSet() as sentinels:
        workers = [
            WorkerProcess(
                sentinels.url,
                folder,
                folder / f"worker-{options.seed}-{number}.log",
                concurrency=1,
                reclaim_after=_RECLAIM_AFTER,
                max_attempts=1000,
            )
            for number in range(options.workers)
        ]
        follower = Follower(sentinels.url)
        follower.start()
        try:
            for worker in workers:
                worker.wait_ready()
            with producing(sentinels.url, ledger, mix, str(options.seed)):
                time.sleep(draw.uniform(2.0, 4.0))
                away = sentinels.fail_over(options.lag)
                time.sleep(2.0)
            return count(sentinels, ledger, follower, away)
        finally:
            for worker in workers:
                worker.kill()


def count(sentinels: SentinelSet, ledger: Ledger, follower: Follower, away: float) -> Round:
    with sentinels.replica.client() as redis:

        def waiting() -> int:
            return int(redis.xlen(KEYS.requests)) + int(redis.xlen(KEYS.requests_high))

        try:
            wait_until_sync(lambda: waiting() == 0, timeout=_DRAIN, what="an empty backlog")
            written = int(redis.xlen(KEYS.transcripts))
            wait_until_sync(lambda: len(follower.outcomes) >= written, what="the follower")
        finally:
            left = waiting()
    seen = Counter(outcome.id for outcome in follower.outcomes)
    return Round(
        submitted=len(ledger),
        lost=sum(request_id not in seen for request_id in ledger.submitted),
        doubled=sum(times - 1 for times in seen.values()),
        gaps=follower.gaps,
        pending=left,
        seconds_without_master=round(away, 2),
    )


def summary(rounds: list[Round]) -> dict[str, float]:
    return {
        "failovers": len(rounds),
        "submitted": sum(each.submitted for each in rounds),
        "lost": sum(each.lost for each in rounds),
        "most_lost_at_once": max(each.lost for each in rounds),
        "doubled": sum(each.doubled for each in rounds),
        "most_doubled_at_once": max(each.doubled for each in rounds),
        "gaps_reported": sum(each.gaps for each in rounds),
        "median_seconds_without_master": median(each.seconds_without_master for each in rounds),
    }


if __name__ == "__main__":
    sys.exit(main())
