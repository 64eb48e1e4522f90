"""`sensestream-worker --check`: what a start would meet, without joining the group.

The model is really loaded, because only that shows which device ONNX Runtime gives, and whether all
files belong together. So it takes the memory of a worker for as long.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError
from sensestream_common.connections.connection import connect
from sensestream_common.connections.redis_checks import examine_redis
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.findings import Finding, Level, fault, fine, warning

from sensestream_consumer.engine import Recogniser
from sensestream_consumer.engine.session import choose_device
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.startup.host_checks import host_findings
from sensestream_consumer.startup.model import load_recogniser

__all__ = ["check"]

_DEVICES = Path("/dev")


async def check(settings: WorkerSettings) -> list[Finding]:
    """Redis, runtimes, folders, device and model; and whether the group runs this model."""
    redis = connect(settings.redis_url, name="sensestream-worker:check", connections=2)
    try:
        found = await examine_redis(redis, settings.redis_url)
        found += host_findings(settings)
        loaded = await asyncio.to_thread(_load, settings)
        if isinstance(loaded, Finding):
            return [*found, loaded]
        fingerprint = loaded.fingerprint
        observed = f"{loaded.name} from {settings.model}, fingerprint {fingerprint}"
        found += [fine("model", observed), _device(settings.device, loaded.device)]
        loaded.close()
        if found[0].level is not Level.FAULT:
            found.append(await _group(redis, settings, fingerprint))
        return found
    finally:
        await redis.aclose()


def _load(settings: WorkerSettings) -> Recogniser | Finding:
    try:
        choose_device(settings.device)
    except SensestreamError as error:
        fix = "Install the runtime for the device (one of them only), or SENSESTREAM_DEVICE=cpu."
        return fault("device", str(error), fix)
    try:
        return load_recogniser(settings, warm_up=False)
    except SensestreamError as error:
        fix = "Name a whole model directory in SENSESTREAM_MODEL; demo is always there."
        return fault("model", str(error), fix)


def _device(asked: str, given: str) -> Finding:
    observed = f"{asked} asked for, {given} given"
    if given == "cpu" and asked == "auto" and any(_DEVICES.glob("nvidia[0-9]*")):
        return warning(
            "device",
            f"{observed}, though this machine has an NVIDIA GPU",
            "Install sensestream-consumer[gpu] without onnxruntime beside it, or say "
            "SENSESTREAM_DEVICE=cpu.",
        )
    return fine("device", observed)


async def _group(redis: Redis, settings: WorkerSettings, ours: str) -> Finding:
    try:
        named: Any = await redis.get(settings.keys.recogniser)
    except (RedisError, OSError) as error:
        fix = "Let this user read below the pipeline's prefix (ACL)."
        return warning("recogniser", f"the group's could not be read: {error}", fix)
    if named is None:
        return fine("recogniser", "no worker lives whose model this one would have to match")
    theirs = named.decode("utf-8", "replace")
    if theirs == ours:
        return fine("recogniser", "the group runs this model")
    observed = f"the group's workers run {theirs}, and this model is {ours}"
    if settings.allow_mixed:
        return warning(
            "recogniser",
            f"{observed}: they share no results, and an answer depends on who gives it",
            "Run one model in one pipeline.",
        )
    return fault(
        "recogniser",
        f"{observed}: a worker started here refuses to join while they live",
        "Stop them first, use another SENSESTREAM_PIPELINE, or set SENSESTREAM_ALLOW_MIXED=1.",
    )
