"""arq doing the least: a no-op job, its result stored.

python peer_arq.py worker URL | python peer_arq.py driver URL
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from arq.connections import ArqRedis
from arq.worker import Worker
from closed import serve
from redis.asyncio import ConnectionPool
from results import Results


def connected(url: str) -> ArqRedis:
    """With a connection for each caller, as many as there are at once."""
    return ArqRedis(ConnectionPool.from_url(url, max_connections=512))


async def nothing(_: dict[str, Any]) -> None:
    return None


async def worker(url: str) -> None:
    hand = Worker(
        [nothing], redis_pool=connected(url), max_jobs=256, poll_delay=0.005,
        handle_signals=False,
    )  # fmt: skip
    print(json.dumps({"ready": True}), flush=True)
    await hand.async_run()


async def drive(url: str) -> None:
    pool = connected(url)
    results = Results(pool.mget)
    poller = asyncio.create_task(results.poll())

    async def call() -> None:
        job = await pool.enqueue_job("nothing")
        assert job is not None
        await results.wait(f"arq:result:{job.job_id}")

    await serve(call)
    poller.cancel()


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[2]) if sys.argv[1] == "worker" else drive(sys.argv[2]))
