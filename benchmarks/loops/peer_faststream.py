"""FastStream doing the least: a no-op subscriber of a Redis stream, its result on another.

python peer_faststream.py worker URL NAME | python peer_faststream.py driver URL
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import sys

from closed import serve
from faststream.redis import BinaryMessageFormatV1, RedisBroker, StreamSub
from redis.asyncio import Redis


def broker(url: str) -> RedisBroker:
    # A publish holds a connection: as many as there are callers at once.
    return RedisBroker(url, max_connections=512, logger=None, log_level=logging.ERROR)


async def worker(url: str, name: str) -> None:
    hub = broker(url)

    @hub.publisher(stream="out")
    @hub.subscriber(stream=StreamSub("in", group="workers", consumer=name, max_records=128))
    async def handle(message: str) -> str:
        return message

    async with hub:
        await hub.start()
        print(json.dumps({"ready": True}), flush=True)
        await asyncio.Event().wait()


async def drive(url: str) -> None:
    hub, redis = broker(url), Redis.from_url(url)
    futures: dict[bytes, asyncio.Future[None]] = {}

    async def follow() -> None:
        position: bytes | str = "0"
        while True:
            reply = await redis.xread({"out": position}, count=512, block=2000)
            for _, entries in reply or ():
                for entry, fields in entries:
                    body, _ = BinaryMessageFormatV1.parse(fields[b"__data__"])
                    position = entry
                    if future := futures.pop(body, None):
                        future.set_result(None)

    async def call() -> None:
        name = secrets.token_hex(16)
        future = futures[name.encode()] = asyncio.get_running_loop().create_future()
        await hub.publish(name, stream="in")
        await future

    async with hub:
        await hub.start()
        follower = asyncio.create_task(follow())
        await serve(call)
        follower.cancel()


if __name__ == "__main__":
    asyncio.run(worker(sys.argv[2], sys.argv[3]) if sys.argv[1] == "worker" else drive(sys.argv[2]))
