"""Queueing the warm list, so that its recordings are cached before they are requested."""

from __future__ import annotations

import json
from hashlib import sha256

import structlog
from sensestream_common.connections.scripts import load_script

from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.warm_list import WarmUp

__all__ = ["warm_up"]

log = structlog.get_logger(__name__)

_WARM = load_script("sensestream_consumer.cache", "warm")
_METADATA = json.dumps({"warm": True})


async def warm_up(broker: Broker, fingerprint: str, wanted: tuple[WarmUp, ...], ttl: int) -> None:
    """Queue the recordings, unless these were queued for this recogniser within `ttl` seconds.

    Of all the workers that start with the same list one queues it, and all of them work it off.
    `ttl` is the retention of results.
    """
    if not wanted:
        return
    recordings = [[each.audio, each.language, each.itn] for each in wanted]
    mark = sha256(json.dumps([fingerprint, recordings]).encode()).hexdigest()
    flat = [part for recording in recordings for part in recording]
    added = await broker.run(
        _WARM, [broker.keys.warmed(mark), broker.keys.requests], [ttl, _METADATA, *flat]
    )
    if added:
        log.info("warming", recordings=added)
