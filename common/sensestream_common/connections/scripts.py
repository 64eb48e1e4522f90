"""Lua scripts: each lives in a `.lua` file beside the module that calls it."""

from __future__ import annotations

from hashlib import sha1
from importlib.resources import files
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

__all__ = ["Script", "load_script"]


class Script:
    """A script called by its digest, and sent whole when Redis does not know it (again)."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        self.source = source
        # Redis names scripts by their SHA-1; nothing secret about it.
        self.sha = sha1(source.encode(), usedforsecurity=False).hexdigest()

    async def __call__(self, redis: Redis, keys: list[str], args: list[Any]) -> Any:
        try:
            return await redis.evalsha(self.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await redis.eval(self.source, len(keys), *keys, *args)


def load_script(package: str, name: str) -> Script:
    """The script `name`.lua of a package."""
    return Script(name, files(package).joinpath(f"{name}.lua").read_text("utf-8"))
