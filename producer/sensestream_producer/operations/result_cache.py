"""The cached results, for operators: counted, weighed and cleared.

Keys are found by SCAN, page by page, never by KEYS: a cache of millions does not block Redis.
Results that come or go meanwhile may be counted or not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any

from redis.asyncio import Redis
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.keys import Keys

from sensestream_producer.transport import RedisTransport

__all__ = ["CacheStats", "Results"]

_PAGE = 1000  # keys that one SCAN looks at: a fraction of a millisecond
_WEIGHED = 20  # results of each page whose memory is measured
_UNKNOWN = "unknown"  # the model of a result that names none

OnPage = Callable[[int], None]  # called after each page with the number of its keys


@dataclass(frozen=True, slots=True)
class CacheStats:
    """The number and size of the cached results, and how requests used them.

    `bytes` is estimated from a sample of the results, without aliases. `hit_rate` is the share of
    completed requests that needed no transcription of their own; `None` before the first.
    `evicted` counts keys of the whole Redis; `None` where the user may not read it.
    """

    results: int
    models: dict[str, int]
    bytes: int
    hits: int
    misses: int
    coalesced: int
    evicted: int | None

    @property
    def hit_rate(self) -> float | None:
        """Between 0 and 1, or `None` before the first completed request."""
        completed = self.hits + self.misses + self.coalesced
        return (self.hits + self.coalesced) / completed if completed else None

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__} | {"hit_rate": self.hit_rate}


class Results:
    """The result cache of one pipeline."""

    def __init__(self, link: RedisTransport, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    async def stats(self, on_page: OnPage = lambda _: None) -> CacheStats:
        """Count and weigh the results, page by page.

        Raises what `RedisTransport.run` raises, as all methods here do.
        """
        models: Counter[str] = Counter()
        weights: list[int] = []
        async for page in self._pages(self._keys.result("")):
            models.update((await self._models(page)).values())
            weights += await self._weigh(page[:_WEIGHED])
            on_page(len(page))
        count = models.total()
        counters: Any = await self._link.run(lambda: self._redis.hgetall(self._keys.stats))
        return CacheStats(
            results=count,
            models=dict(models.most_common()),
            bytes=round(count * sum(weights) / len(weights)) if weights else 0,
            hits=int(counters.get(b"hits", 0)),
            misses=int(counters.get(b"misses", 0)),
            coalesced=int(counters.get(b"coalesced", 0)),
            evicted=await self._evicted(),
        )

    async def clear(
        self, model: str = "", *, dry_run: bool = False, on_page: OnPage = lambda _: None
    ) -> int:
        """Remove the results of `model`, or of all models; returns their number.

        With `dry_run` they are only counted. Aliases from bytes to audio serve every model; they
        are removed only with all results.
        """
        removed = 0
        async for page in self._pages(self._keys.result("")):
            models = await self._models(page)
            chosen = [key for key, known in models.items() if not model or known == model]
            if chosen and not dry_run:
                await self._unlink(chosen)
            removed += len(chosen)
            on_page(len(page))
        if not model and not dry_run:
            async for page in self._pages(self._keys.audio_prefix):
                await self._unlink(page)
        return removed

    @property
    def _redis(self) -> Redis:
        return self._link.redis

    async def _pages(self, prefix: str) -> AsyncGenerator[list[bytes]]:
        async def page() -> Any:
            return await self._redis.scan(cursor, match=prefix + "*", count=_PAGE)

        cursor: int = 0
        while True:
            cursor, keys = await self._link.run(page)
            if keys:
                yield keys
            if cursor == 0:
                return

    async def _models(self, keys: list[bytes]) -> dict[bytes, str]:
        """The model of each result that still exists; `unknown` for a key that is no hash."""

        async def fetch() -> list[Any]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.hmget(key, "model", "transcript")
                return list(await pipe.execute(raise_on_error=False))

        found = {}
        for key, answer in zip(keys, await self._link.run(fetch), strict=True):
            if isinstance(answer, Exception):
                found[key] = _UNKNOWN
            elif answer != [None, None]:
                found[key] = (answer[0] or _UNKNOWN.encode()).decode("utf-8", "replace")
        return found

    async def _weigh(self, keys: list[bytes]) -> list[int]:
        async def fetch() -> list[Any]:
            async with self._redis.pipeline(transaction=False) as pipe:
                for key in keys:
                    pipe.memory_usage(key)
                return list(await pipe.execute(raise_on_error=False))

        return [weight for weight in await self._link.run(fetch) if isinstance(weight, int)]

    async def _unlink(self, keys: list[bytes]) -> None:
        await self._link.run(lambda: self._redis.unlink(*keys))

    async def _evicted(self) -> int | None:
        try:
            info: Any = await self._link.run(lambda: self._redis.info("stats"))
        except SensestreamError:  # this user may not read INFO
            return None
        return int(info["evicted_keys"])
