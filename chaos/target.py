"""Everything that a fault may act on."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from sensestream_common.contract.keys import Keys
from sensestream_producer.local.redis_server import EmbeddedRedis

from chaos.ledger import Ledger
from chaos.proxy import Proxy
from chaos.workers import Workers

__all__ = ["Target"]


@dataclass
class Target:
    """One Redis, its workers, the proxy between them, and the dice."""

    server: EmbeddedRedis
    redis: Any
    keys: Keys
    workers: Workers
    proxy: Proxy
    ledger: Ledger
    clips: list[str]
    draw: random.Random
    everysec: bool  # the log is synced once a second only
    kills: list[float] = field(default_factory=list)  # of Redis, by the monotonic clock
