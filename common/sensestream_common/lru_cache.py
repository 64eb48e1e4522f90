"""A bounded cache that evicts the least recently used values first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, TypeVar

__all__ = ["LruCache"]

K = TypeVar("K")
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """Values by key, whose sizes together are at most `limit`, in the unit of the sizes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._values: OrderedDict[K, tuple[V, int]] = OrderedDict()

    def __contains__(self, key: K) -> bool:
        return key in self._values

    def get(self, key: K) -> V | None:
        """The value, which becomes the most recently used one; `None` where there is none."""
        kept = self._values.get(key)
        if kept is None:
            return None
        self._values.move_to_end(key)
        return kept[0]

    def put(self, key: K, value: V, size: int = 1) -> None:
        """Keep `value`, and evict others while all sizes together exceed the limit."""
        self.evict(key)
        self._values[key] = value, size
        self._size += size
        while self._size > self._limit:
            _, (_, oldest) = self._values.popitem(last=False)
            self._size -= oldest

    def evict(self, key: K) -> None:
        """Drop the value of `key`, if there is one."""
        _, size = self._values.pop(key, (None, 0))
        self._size -= size
