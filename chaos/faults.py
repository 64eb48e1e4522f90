"""What goes wrong, each fault a function of the arena; drawn by a seed and logged by the run."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

from redis.exceptions import RedisError
from sensestream_common.keys import Keys
from sensestream_producer.embedded import EmbeddedRedis

from chaos.crew import Crew
from chaos.ledger import Ledger
from chaos.proxy import Proxy

__all__ = ["FAULTS", "Arena"]


class Arena:
    """Everything a fault may lay its hands on."""

    def __init__(
        self, server: EmbeddedRedis, redis: Any, keys: Keys, crew: Crew, proxy: Proxy,
        ledger: Ledger, clips: list[str], draw: random.Random,
    ) -> None:  # fmt: skip
        self.server = server
        self.redis = redis
        self.keys = keys
        self.crew = crew
        self.proxy = proxy
        self.ledger = ledger
        self.clips = clips
        self.draw = draw


def kill_worker(arena: Arena) -> str:
    return f"SIGKILL {arena.crew.replace(arena.draw.randrange(len(arena.crew)), kill=True)}"


def drain_worker(arena: Arena) -> str:
    return f"SIGTERM {arena.crew.replace(arena.draw.randrange(len(arena.crew)), kill=False)}"


def freeze_worker(arena: Arena) -> str:
    seconds = arena.draw.uniform(0.3, 2.5 * arena.crew.reclaim_after)
    name = arena.crew.freeze(arena.draw.randrange(len(arena.crew)), seconds)
    return f"SIGSTOP {name} for {seconds:.1f} s"


def restart_redis(arena: Arena) -> str:
    arena.server.kill()
    arena.server.restart()
    return "SIGKILL redis-server, restart"


def pause_redis(arena: Arena) -> str:
    milliseconds = arena.draw.randrange(200, 2000)
    arena.redis.execute_command("CLIENT", "PAUSE", milliseconds)
    return f"CLIENT PAUSE {milliseconds}"


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
    return f"connections slowed by {seconds * 1000:.0f} ms, then cut"


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
        return "transcripts of the wrong type came too early"  # nothing to set aside yet
    pipe = arena.redis.pipeline(transaction=True)
    pipe.rename(arena.keys.transcripts, aside)
    pipe.set(arena.keys.transcripts, "not a stream")
    pipe.execute()
    time.sleep(0.5)
    arena.redis.rename(aside, arena.keys.transcripts)
    return "transcripts of the wrong type for a moment"


def entry_from_the_future(arena: Arena) -> str:
    request_id = f"future-{arena.draw.getrandbits(48):x}"
    last = arena.redis.xinfo_stream(arena.keys.requests)["last-generated-id"].decode()
    entry = f"{int(last.partition('-')[0]) + 3_600_000}-0"
    fields = {"audio": arena.draw.choice(arena.clips), "id": request_id}
    arena.redis.xadd(arena.keys.requests, fields, id=entry)
    arena.ledger.add(request_id)
    return f"an entry with the id {entry}, an hour ahead"


Fault = Callable[[Arena], str]
FAULTS: dict[Fault, int] = {  # and how often, against each other
    kill_worker: 30,
    freeze_worker: 15,
    drain_worker: 12,
    cut_connections: 12,
    delay_connections: 6,
    forget_scripts: 6,
    pause_redis: 5,
    restart_redis: 5,
    fill_memory: 4,
    wrong_stats_type: 3,
    wrong_transcripts_type: 3,
    entry_from_the_future: 2,
}


def strike(arena: Arena) -> str:
    """One fault, drawn by weight; what it did. One that Redis refuses is passed over."""
    [fault] = arena.draw.choices(list(FAULTS), weights=list(FAULTS.values()))
    try:
        return fault(arena)
    except RedisError as error:
        return f"{fault.__name__} came to nothing: {error}"
