"""taskiq-redis doing the least: a no-op task by a Redis stream, its result stored.

python peer_taskiq.py driver URL; the worker is `taskiq worker peer_taskiq:broker`
"""

from __future__ import annotations

import asyncio
import os
import sys

from closed import serve
from redis.asyncio import Redis
from results import Results
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

# With a connection for each caller, as many as there are at once.
URL = f"{os.environ['PEER_URL']}?max_connections=512"
broker = RedisStreamBroker(URL).with_result_backend(
    RedisAsyncResultBackend(URL, result_ex_time=3600)
)


@broker.task(task_name="nothing")
async def nothing() -> None:
    return None


async def drive() -> None:
    await broker.startup()
    redis = Redis.from_url(URL)
    results = Results(redis.mget)
    poller = asyncio.create_task(results.poll())

    async def call() -> None:
        task = await nothing.kiq()
        await results.wait(task.task_id)

    await serve(call)
    poller.cancel()


if __name__ == "__main__" and sys.argv[1] == "driver":
    asyncio.run(drive())
