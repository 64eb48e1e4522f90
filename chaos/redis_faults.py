"""Faults of Redis itself, each a function of the target."""

from __future__ import annotations

import os
import signal
import time

from redis.exceptions import ResponseError

from chaos.stalled_disk import hold_the_log
from chaos.target import Target

__all__ = [
    "cut_connections",
    "delay_connections",
    "entry_from_the_future",
    "fill_memory",
    "forget_scripts",
    "pause_redis",
    "restart_redis",
    "stall_redis",
    "wrong_cache_types",
    "wrong_stats_type",
    "wrong_transcripts_type",
]


def restart_redis(target: Target) -> str:
    what = ""
    if target.everysec:
        try:
            hold_the_log(target.server.pid)
        except OSError as error:
            raise SystemExit(
                f"--everysec has to hold the thread of Redis that syncs its log: {error}; "
                "run it on Linux, as root or where a process may trace its children"
            ) from error
        time.sleep(target.draw.uniform(0.3, 2.0))
        what = " whose disk hung"
    target.kills.append(time.monotonic())
    target.server.kill()
    target.server.restart()
    return f"SIGKILL redis-server{what}, restart"


def stall_redis(target: Target) -> str:
    """As a disk that hangs under `always` does: nothing is answered, and nothing is refused."""
    seconds = target.draw.uniform(0.3, 2 * target.workers.reclaim_after)
    os.kill(target.server.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(target.server.pid, signal.SIGCONT)
    return f"SIGSTOP redis-server for {seconds:.1f} s"


def pause_redis(target: Target) -> str:
    milliseconds = target.draw.randrange(200, 2000)
    target.redis.execute_command("CLIENT", "PAUSE", milliseconds)
    return f"CLIENT PAUSE for {milliseconds} ms"


def forget_scripts(target: Target) -> str:
    target.redis.script_flush()
    return "SCRIPT FLUSH"


def cut_connections(target: Target) -> str:
    target.proxy.cut()
    return "connections cut"


def delay_connections(target: Target) -> str:
    seconds = target.draw.uniform(0.01, 0.1)
    target.proxy.delay(seconds)
    time.sleep(1.0)
    target.proxy.delay(0)
    target.proxy.cut()  # replies that are still under way are lost with their connections
    return f"connections slowed and cut, by {seconds * 1000:.0f} ms"


def fill_memory(target: Target) -> str:
    target.redis.config_set("maxmemory", 1)
    time.sleep(target.draw.uniform(0.2, 1.5))
    target.redis.config_set("maxmemory", 0)
    return "memory full for a moment"


def wrong_stats_type(target: Target) -> str:
    target.redis.delete(target.keys.stats)
    target.redis.set(target.keys.stats, "not a hash")
    time.sleep(0.5)
    target.redis.delete(target.keys.stats)
    return "stats of the wrong type for a moment"


def wrong_transcripts_type(target: Target) -> str:
    aside = target.keys.prefix + "aside"
    if not target.redis.exists(target.keys.transcripts):
        raise ResponseError("there is no outcome yet that could be set aside")
    pipe = target.redis.pipeline(transaction=True)
    pipe.rename(target.keys.transcripts, aside)
    pipe.set(target.keys.transcripts, "not a stream")
    pipe.execute()
    time.sleep(0.5)
    target.redis.rename(aside, target.keys.transcripts)
    return "transcripts of the wrong type for a moment"


def wrong_cache_types(target: Target) -> str:
    """Results, aliases and leases that are lists, for some seconds."""
    spoilt = 0
    for kind in ("result", "audio", "lease"):
        keys = list(target.redis.scan_iter(f"{target.keys.prefix}{kind}:*", 1000))
        pipe = target.redis.pipeline(transaction=True)
        for key in target.draw.sample(sorted(keys), min(len(keys), 50)):
            pipe.delete(key).rpush(key, "not yours").expire(key, 3)
            spoilt += 1
        pipe.execute()
    return f"keys of the cache turned into lists, {spoilt}"


def entry_from_the_future(target: Target) -> str:
    request_id = f"future-{target.draw.getrandbits(48):x}"
    last = target.redis.xinfo_stream(target.keys.requests)["last-generated-id"].decode()
    entry = f"{int(last.partition('-')[0]) + 3_600_000}-0"
    fields = {"audio": target.draw.choice(target.clips), "id": request_id}
    target.redis.xadd(target.keys.requests, fields, id=entry)
    target.ledger.add(request_id)
    return f"an entry from the future, {entry}"
