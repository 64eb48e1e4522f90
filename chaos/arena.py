"""Everything a fault may lay its hands on."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from sensestream_common.contract.keys import Keys
from sensestream_producer.local.redis_server import EmbeddedRedis

from chaos.crew import Crew
from chaos.ledger import Ledger
from chaos.proxy import Proxy

__all__ = ["Arena"]


@dataclass
class Arena:
    """One Redis, its workers, the proxy between them, and the dice."""

    server: EmbeddedRedis
    redis: Any
    keys: Keys
    crew: Crew
    proxy: Proxy
    ledger: Ledger
    clips: list[str]
    draw: random.Random
    careless: bool  # the log is synced once a second only
    kills: list[float] = field(default_factory=list)  # of Redis, by the monotonic clock
