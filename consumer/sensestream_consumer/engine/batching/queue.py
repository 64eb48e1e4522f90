"""Which clips run together: by length, under a budget of rows and a deadline.

No thread and no clock in here: the caller tells what time it is.
"""

from __future__ import annotations

import bisect
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from sensestream_consumer.engine.decoding.ctc import TAG_ROWS

if TYPE_CHECKING:
    from concurrent.futures import Future

    from numpy.typing import NDArray

    from sensestream_consumer.engine.decoding.ctc import Rows

__all__ = ["BUCKETS", "Batch", "BatchLimits", "BatchQueue", "BatchStats", "Clip"]

# Rows of 60 ms: 2, 4, 6, 8, 12, 16, 24 and 31 s. Few, so that each shape is met at start-up;
# close enough that a clip is rarely padded by more than a third.
BUCKETS = (32, 64, 96, 128, 192, 256, 384, 512)


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How large a batch may grow, and how long a clip may wait for batch neighbours."""

    # 240 s of audio: 400 MB of logits for a vocabulary of 25,055, the most that a batch holds.
    rows: int = 4000
    max_wait: float = 0.010  # seconds from a clip's arrival

    def clips(self, bucket: int) -> int:
        """How many clips of this many rows run together; one always may."""
        return max(1, self.rows // (bucket + TAG_ROWS))


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """One piece of audio that waits for its rows."""

    features: NDArray[np.float32]  # [rows, width]
    language: int
    textnorm: int
    rows: Future[Rows]

    @property
    def length(self) -> int:
        """Rows."""
        return int(self.features.shape[0])


@dataclass(frozen=True, slots=True)
class Batch:
    """Clips that run together. `width`: the rows that each is padded to.

    `counts` is false for a warm-up.
    """

    clips: tuple[Clip, ...]
    width: int
    counts: bool = True

    @property
    def rows(self) -> int:
        """Rows of audio in all clips together."""
        return sum(clip.length for clip in self.clips)

    @property
    def padding(self) -> int:
        """Rows of zeros beside them."""
        return len(self.clips) * self.width - self.rows

    def features(self) -> NDArray[np.float32]:
        """float32[clips, width, values], zeros beyond a clip's own rows."""
        first = self.clips[0].features
        padded = np.zeros((len(self.clips), self.width, first.shape[1]), np.float32)
        for row, clip in zip(padded, self.clips, strict=True):
            row[: clip.length] = clip.features
        return padded


@dataclass(slots=True)
class BatchStats:
    """What has run in batches."""

    batches: int = 0
    clips: int = 0
    rows: int = 0  # of audio
    padding: int = 0  # rows of nothing, up to the width of the batch
    retried: int = 0  # clips whose batch failed and that ran again alone

    @property
    def waste(self) -> float:
        """The share of rows that were padding, 0 to 1."""
        return self.padding / max(1, self.rows + self.padding)

    def since(self, before: BatchStats) -> BatchStats:
        """What has run since `before`, an earlier copy."""
        return BatchStats(
            self.batches - before.batches,
            self.clips - before.clips,
            self.rows - before.rows,
            self.padding - before.padding,
            self.retried - before.retried,
        )

    def count(self, batch: Batch) -> None:
        """Add a batch that has run."""
        self.batches += 1
        self.clips += len(batch.clips)
        self.rows += batch.rows
        self.padding += batch.padding


@dataclass(slots=True)
class BatchQueue:
    """Clips that wait, in buckets of like length.

    `accepts_padding` is the graph's (see `Graph`): where it is false a batch is only as wide as its
    longest clip.
    """

    limits: BatchLimits
    accepts_padding: bool
    _buckets: dict[int, deque[tuple[float, Clip]]] = field(default_factory=dict)

    def add(self, clip: Clip, now: float) -> None:
        """Let a clip wait from `now` on, in seconds of the caller's clock."""
        self._buckets.setdefault(_bucket(clip.length), deque()).append((now, clip))

    def take(self, now: float) -> Batch | None:
        """The batch to run now, or None: better to wait.

        A clip past its deadline goes first, and with it whatever is of its length: a full batch
        of other lengths, however many there are, does not keep it waiting. Otherwise a bucket
        that is full, the one that has waited longest.
        """
        if not self._buckets:
            return None
        oldest = min(self._buckets, key=self._since)
        if now - self._since(oldest) >= self.limits.max_wait:
            return self._pop(oldest)
        full = [one for one in self._buckets if len(self._buckets[one]) >= self.limits.clips(one)]
        return self._pop(min(full, key=self._since)) if full else None

    def deadline(self) -> float | None:
        """When the clip that has waited longest must run; None without clips."""
        if not self._buckets:
            return None
        return min(map(self._since, self._buckets)) + self.limits.max_wait

    def drain(self) -> list[Clip]:
        """Every clip that waits, taken out."""
        clips = [clip for waiting in self._buckets.values() for _, clip in waiting]
        self._buckets.clear()
        return clips

    def _since(self, bucket: int) -> float:
        return self._buckets[bucket][0][0]

    def _pop(self, bucket: int) -> Batch:
        waiting = self._buckets[bucket]
        count = min(len(waiting), self.limits.clips(bucket))
        clips = tuple(waiting.popleft()[1] for _ in range(count))
        if not waiting:
            del self._buckets[bucket]
        longest = max(clip.length for clip in clips)
        return Batch(clips, bucket if self.accepts_padding else longest)


def _bucket(length: int) -> int:
    """The rows that a clip of this length is padded to."""
    index = bisect.bisect_left(BUCKETS, length)
    if index < len(BUCKETS):
        return BUCKETS[index]
    return -(-length // BUCKETS[-1]) * BUCKETS[-1]
