"""What goes wrong in Redis itself, each fault a function of the arena."""

from __future__ import annotations

import os
import signal
import time

from redis.exceptions import ResponseError

from chaos.arena import Arena
from chaos.stalled_disk import hold_the_log

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


def restart_redis(arena: Arena) -> str:
    what = ""
    if arena.careless:
        try:
            hold_the_log(arena.server.pid)
        except OSError as error:
            raise SystemExit(
                f"--everysec has to hold the thread of Redis that syncs its log: {error}; "
                "run it on Linux, as root or where a process may trace its children"
            ) from error
        time.sleep(arena.draw.uniform(0.3, 2.0))
        what = " whose disk hung"
    arena.kills.append(time.monotonic())
    arena.server.kill()
    arena.server.restart()
    return f"SIGKILL redis-server{what}, restart"


def stall_redis(arena: Arena) -> str:
    """As a disk that hangs under `always` does: nothing is answered, and nothing is refused."""
    seconds = arena.draw.uniform(0.3, 2 * arena.crew.reclaim_after)
    os.kill(arena.server.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(arena.server.pid, signal.SIGCONT)
    return f"SIGSTOP redis-server for {seconds:.1f} s"


def pause_redis(arena: Arena) -> str:
    milliseconds = arena.draw.randrange(200, 2000)
    arena.redis.execute_command("CLIENT", "PAUSE", milliseconds)
    return f"CLIENT PAUSE for {milliseconds} ms"


def forget_scripts(arena: Arena) -> str:
    arena.redis.script_flush()
    return "SCRIPT FLUSH"


def cut_connections(arena: Arena) -> str:
    arena.proxy.cut()
    return "connections cut"


def delay_connections(arena: Arena) -> str:
    seconds = arena.draw.uniform(0.01, 0.1)
    arena.proxy.delay(seconds)
    time.sleep(1.0)
    arena.proxy.delay(0)
    arena.proxy.cut()  # replies that are still under way are lost with their connections
    return f"connections slowed and cut, by {seconds * 1000:.0f} ms"


def fill_memory(arena: Arena) -> str:
    arena.redis.config_set("maxmemory", 1)
    time.sleep(arena.draw.uniform(0.2, 1.5))
    arena.redis.config_set("maxmemory", 0)
    return "memory full for a moment"


def wrong_stats_type(arena: Arena) -> str:
    arena.redis.delete(arena.keys.stats)
    arena.redis.set(arena.keys.stats, "not a hash")
    time.sleep(0.5)
    arena.redis.delete(arena.keys.stats)
    return "stats of the wrong type for a moment"


def wrong_transcripts_type(arena: Arena) -> str:
    aside = arena.keys.prefix + "aside"
    if not arena.redis.exists(arena.keys.transcripts):
        raise ResponseError("there is no outcome yet that could be set aside")
    pipe = arena.redis.pipeline(transaction=True)
    pipe.rename(arena.keys.transcripts, aside)
    pipe.set(arena.keys.transcripts, "not a stream")
    pipe.execute()
    time.sleep(0.5)
    arena.redis.rename(aside, arena.keys.transcripts)
    return "transcripts of the wrong type for a moment"


def wrong_cache_types(arena: Arena) -> str:
    """Results, aliases and leases that are lists, for some seconds."""
    spoilt = 0
    for kind in ("result", "audio", "lease"):
        keys = list(arena.redis.scan_iter(f"{arena.keys.prefix}{kind}:*", 1000))
        pipe = arena.redis.pipeline(transaction=True)
        for key in arena.draw.sample(sorted(keys), min(len(keys), 50)):
            pipe.delete(key).rpush(key, "not yours").expire(key, 3)
            spoilt += 1
        pipe.execute()
    return f"keys of the cache turned into lists, {spoilt}"


def entry_from_the_future(arena: Arena) -> str:
    request_id = f"future-{arena.draw.getrandbits(48):x}"
    last = arena.redis.xinfo_stream(arena.keys.requests)["last-generated-id"].decode()
    entry = f"{int(last.partition('-')[0]) + 3_600_000}-0"
    fields = {"audio": arena.draw.choice(arena.clips), "id": request_id}
    arena.redis.xadd(arena.keys.requests, fields, id=entry)
    arena.ledger.add(request_id)
    return f"an entry from the future, {entry}"
