"""The ceiling: the same commands, fields and scripts with nothing around them.

    python bare.py worker URL NAME | python bare.py driver URL DIGESTS

No request is checked, no deadline looked at, nothing logged or counted, no lease, no heartbeat, no
error met: bytes go from one reply into the next command. What it does on the wire is what a worker
and a client do for a hit whose sender names the digest.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import secrets
import sys
import time
from hashlib import sha1, sha256
from pathlib import Path
from typing import Any

from closed import serve
from redis.asyncio import Redis
from sensestream_common.connections.connection import connect
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.keys import Keys
from sensestream_consumer.audio import decode_revision

KEYS = Keys("sensestream")
READ = load_script("sensestream_consumer.broker.lua", "read")
COMMIT = load_script("sensestream_consumer.broker.lua", "commit")
SUBMIT = load_script("sensestream_producer.submit", "submit")
COUNT = 128
KNOWN: dict[str, tuple[str, str, dict[str, Any], str]] = {}  # by digest


async def worker(url: str, name: str) -> None:
    redis, reader = connect(url, name="bare"), connect(url, name="bare", connections=1)
    fingerprint = (await redis.get(KEYS.recogniser)).decode()
    for script in (READ, COMMIT):
        await redis.script_load(script.source)
    lanes = [KEYS.requests_high, KEYS.requests]
    print(json.dumps({"ready": True}), flush=True)
    while True:
        lists = await redis.evalsha(READ.sha, 2, *lanes, "workers", name, COUNT, 0)
        entries = [entry for listed in lists for entry in listed]
        if not entries:
            reply = await reader.execute_command(
                "XREADGROUP", "GROUP", "workers", name, "COUNT", COUNT // 2, "BLOCK", 1000,
                "STREAMS", *lanes, ">", ">",
            )  # fmt: skip
            found = [(entry, fields) for _, rows in reply or () for entry, fields in rows]
        else:
            found = [
                (entry, dict(zip(fields[::2], fields[1::2], strict=True)))
                for entry, fields in entries
            ]
        if found:
            await answer(redis, found, fingerprint, name)


async def answer(redis: Redis, found: list[Any], fingerprint: str, name: str) -> None:
    digests = [fields[b"digest"].decode() for _, fields in found]
    await learn(redis, {digest for digest in digests if digest not in KNOWN}, fingerprint)
    now = int(time.time() * 1000)
    keys: list[Any] = [KEYS.transcripts, KEYS.dead, KEYS.webhooks, KEYS.stats]
    arguments: list[Any] = ["workers", name, 86_400]
    for (entry, fields), digest in zip(found, digests, strict=True):
        commit(keys, arguments, entry.decode(), fields, digest, name, now)
    for reply in await redis.evalsha(COMMIT.sha, len(keys), *keys, *arguments):
        if reply[0] != 1:
            sys.exit(f"not committed: {reply}")


async def learn(redis: Redis, digests: set[str], fingerprint: str) -> None:
    """Aliases and transcripts, asked for once; the commit sees to it that they are still kept."""
    for digest in digests:
        alias = (await redis.get(KEYS.audio(digest, decode_revision()))).decode()
        identity = sha256(f"{alias}\n{fingerprint}\nauto\n1".encode()).hexdigest()
        result = await redis.hget(KEYS.result(identity), "transcript")
        checksum = sha1(result, usedforsecurity=False).hexdigest()
        KNOWN[digest] = (alias, identity, json.loads(result), checksum)


def commit(
    keys: list[Any], arguments: list[Any], entry: str, fields: dict[bytes, bytes], digest: str,
    name: str, now: int,
) -> None:  # fmt: skip
    request = fields[b"id"].decode()
    alias, identity, result, checksum = KNOWN[digest]
    outcome = {
        "id": request, "entry": entry, "status": "completed", "audio": fields[b"audio"].decode(),
        **result, "cache": "hit", "digest": digest, "model": "demo",
        "submitted_at": int(fields[b"submitted_at"]), "started_at": now, "finished_at": now,
        "worker": name, "attempt": 0, "v": "1",
    }  # fmt: skip
    listed = []
    for field, value in outcome.items():
        listed.append(field)
        listed.append(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    none = KEYS.none
    keys += [
        KEYS.requests, KEYS.request(request), none, KEYS.result(identity),
        KEYS.audio(digest, decode_revision()), none, none,
    ]  # fmt: skip
    arguments += [
        entry, 0, json.dumps(outcome, ensure_ascii=False), "completed", 1, "", 604_800_000, alias,
        "", 0, checksum, len(listed), *listed, 0, 0, 0, 2, "completed", "hits",
    ]  # fmt: skip


class Driver:
    """Submits what has gathered in one pipeline, and hands outcomes on by their id."""

    def __init__(self, url: str, digests: list[str]) -> None:
        self.redis, self.reader = connect(url, name="bare"), connect(url, name="bare")
        self.turns = itertools.cycle(digests)
        self.waiting: list[tuple[str, str]] = []
        self.futures: dict[bytes, asyncio.Future[Any]] = {}
        self.sender: asyncio.Task[None] | None = None

    async def call(self) -> Any:
        name = f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"
        future = self.futures[name.encode()] = asyncio.get_running_loop().create_future()
        self.waiting.append((name, next(self.turns)))
        if self.sender is None:
            self.sender = asyncio.create_task(self.send())
        return await future

    async def send(self) -> None:
        while self.waiting:
            batch, self.waiting = self.waiting[:128], self.waiting[128:]
            keys, arguments = [KEYS.requests, KEYS.requests_high, KEYS.stats], [1_000_000]
            for name, digest in batch:
                keys.append(KEYS.request(name))
                arguments += [
                    "normal", "", 0, 8,
                    "v", "1", "audio", "file:///data/clip.wav", "id", name, "digest", digest,
                ]  # fmt: skip
            await self.redis.evalsha(SUBMIT.sha, len(keys), *keys, *arguments)
        self.sender = None

    async def follow(self) -> None:
        last = await self.redis.xrevrange(KEYS.transcripts, count=1)
        position = last[0][0] if last else b"0"
        while True:
            reply = await self.reader.xread({KEYS.transcripts: position}, count=512, block=2000)
            for _, entries in reply or ():
                for entry, fields in entries:
                    future = self.futures.pop(fields[b"id"], None)
                    if future is not None:
                        outcome = {k.decode(): v.decode() for k, v in fields.items()}
                        outcome["segments"] = json.loads(outcome["segments"])
                        future.set_result(outcome)
                    position = entry


async def drive(url: str, digests: list[str]) -> None:
    driver = Driver(url, digests)
    await driver.redis.script_load(SUBMIT.source)
    follower = asyncio.create_task(driver.follow())
    await serve(driver.call)
    follower.cancel()


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        asyncio.run(worker(sys.argv[2], sys.argv[3]))
    else:
        asyncio.run(drive(sys.argv[2], Path(sys.argv[3]).read_text().split()))
