"""The access to its pipeline that each part of a worker is given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from redis.exceptions import NoScriptError
from sensestream_common.connections.scripts import Script
from sensestream_common.contract.keys import Keys

from sensestream_consumer.broker.autopipeline import AutoPipeline

__all__ = ["Broker"]


@dataclass(eq=False)
class Broker:
    """One worker's access to its pipeline: Redis, the pipeline's keys, and its own name."""

    commands: AutoPipeline
    keys: Keys
    consumer: str

    async def run(self, script: Script, keys: list[str], args: list[Any]) -> Any:
        """Run a script by its digest; sent whole when Redis does not know it (again)."""
        commands = self.commands
        try:
            return await commands("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await commands("EVAL", script.source, len(keys), *keys, *args)
