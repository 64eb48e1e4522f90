"""docket doing the least: a no-op task that returns a number, which is stored.

python peer_docket.py worker URL NAME | python peer_docket.py driver URL
"""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta

from closed import serve
from docket import Docket, Worker
from redis.asyncio import Redis
from results import Results


async def nothing() -> int:
    return 1


def roomy(url: str) -> str:
    """With a connection for each caller, as many as there are at once."""
    return f"{url}?max_connections=512"


async def worker(url: str, name: str) -> None:
    async with Docket(name="bench", url=roomy(url)) as docket:
        docket.register(nothing)
        async with Worker(
            docket, name=name, concurrency=256, minimum_check_interval=timedelta(milliseconds=5)
        ) as hand:
            print(json.dumps({"ready": True}), flush=True)
            await hand.run_forever()


async def drive(url: str) -> None:
    redis = Redis.from_url(url)

    async def states(keys: list[str]) -> list[bytes | None]:
        pipe = redis.pipeline(transaction=False)
        for key in keys:
            pipe.hget(key, "state")
        found = await pipe.execute()
        return [state if state in (b"completed", b"failed") else None for state in found]

    results = Results(states)
    poller = asyncio.create_task(results.poll())
    async with Docket(name="bench", url=roomy(url)) as docket:
        docket.register(nothing)

        async def call() -> None:
            run = await docket.add(nothing)()
            await results.wait(docket.runs_key(run.key))

        await serve(call)
    poller.cancel()


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[2], sys.argv[3]) if sys.argv[1] == "worker" else drive(sys.argv[2]))
