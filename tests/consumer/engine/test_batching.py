"""Which clips run together, and when: the rules without a thread or a clock."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sensestream_consumer.engine.batching.queue import (
    Batch,
    BatchLimits,
    BatchQueue,
    BatchStats,
    Clip,
)


def _clip(rows: int) -> Clip:
    return Clip(np.full((rows, 3), rows, np.float32), 0, 14, Future())


def _lengths(batch: Batch | None) -> list[int]:
    assert batch is not None
    return [clip.length for clip in batch.clips]


def test_a_clip_waits_for_batch_neighbours_until_its_deadline() -> None:
    queue = BatchQueue(BatchLimits(max_wait=0.01), accepts_padding=True)
    queue.add(_clip(50), now=1.0)
    assert queue.take(1.009) is None
    assert queue.deadline() == pytest.approx(1.01)
    assert _lengths(queue.take(1.0101)) == [50]
    assert (queue.take(2.0), queue.deadline()) == (None, None)


def test_clips_of_like_length_run_together_and_others_do_not() -> None:
    queue = BatchQueue(BatchLimits(max_wait=0.01), accepts_padding=True)
    for rows in (60, 400, 40, 64, 500):
        queue.add(_clip(rows), now=1.0)
    first = queue.take(1.02)
    assert _lengths(first) == [60, 40, 64]
    assert first is not None
    assert first.width == 64
    assert _lengths(queue.take(1.02)) == [400, 500]


def test_a_full_batch_does_not_wait() -> None:
    limits = BatchLimits(rows=3 * (64 + 4), max_wait=60.0)
    queue = BatchQueue(limits, accepts_padding=True)
    queue.add(_clip(60), now=1.0)
    queue.add(_clip(60), now=1.0)
    assert queue.take(1.0) is None
    for _ in range(2):
        queue.add(_clip(60), now=1.0)
    assert len(_lengths(queue.take(1.0))) == 3
    assert queue.take(1.0) is None  # one is left, and waits


def test_a_long_clip_is_not_kept_waiting_by_short_ones_without_end() -> None:
    limits = BatchLimits(rows=2 * (32 + 4), max_wait=0.01)
    queue = BatchQueue(limits, accepts_padding=True)
    queue.add(_clip(500), now=1.0)
    served: list[int] = []
    for step in range(20):
        now = 1.001 + step / 1000
        for _ in range(2):
            queue.add(_clip(20), now)
        served += _lengths(queue.take(now))
    assert 500 in served[:24]


def test_a_clip_beyond_the_budget_runs_alone() -> None:
    queue = BatchQueue(BatchLimits(rows=100, max_wait=0.0), accepts_padding=True)
    queue.add(_clip(1300), now=0.0)
    batch = queue.take(0.0)
    assert _lengths(batch) == [1300]
    assert batch is not None
    assert batch.width == 1536


def test_a_graph_that_cannot_pad_gets_batches_as_wide_as_their_longest_clip() -> None:
    queue = BatchQueue(BatchLimits(max_wait=0.0), accepts_padding=False)
    for rows in (50, 61):
        queue.add(_clip(rows), now=0.0)
    batch = queue.take(0.0)
    assert batch is not None
    assert batch.width == 61
    padded = batch.features()
    assert padded.shape == (2, 61, 3)
    assert padded[0, :50].min() == 50
    assert not padded[0, 50:].any()


@given(
    arrivals=st.lists(st.tuples(st.integers(1, 700), st.floats(0, 0.02)), min_size=1, max_size=60),
    budget=st.integers(50, 4000),
    freely=st.booleans(),
)
def test_every_clip_runs_once_in_time_and_within_the_budget(
    arrivals: list[tuple[int, float]], budget: int, freely: bool
) -> None:
    limits = BatchLimits(rows=budget, max_wait=0.01)
    queue = BatchQueue(limits, accepts_padding=freely)
    arrived: dict[Clip, float] = {}
    ran: dict[Clip, float] = {}
    now = 0.0

    def serve() -> None:
        while (batch := queue.take(now)) is not None:
            assert batch.width >= max(_lengths(batch))
            assert len(batch.clips) == 1 or len(batch.clips) * (batch.width + 4) <= budget
            assert not ran.keys() & set(batch.clips)
            ran.update(dict.fromkeys(batch.clips, now))

    for rows, pause in arrivals:
        while (deadline := queue.deadline()) is not None and deadline <= now + pause:
            now = max(now, deadline) + 1e-9
            serve()
        now += pause
        clip = _clip(rows)
        arrived[clip] = now
        queue.add(clip, now)
        serve()
    while (deadline := queue.deadline()) is not None:
        now = max(now, deadline) + 1e-9
        serve()
    assert ran.keys() == arrived.keys()
    assert all(ran[clip] - arrived[clip] <= limits.max_wait + 1e-6 for clip in arrived)


def test_waste_is_the_share_of_rows_that_nobody_spoke_in() -> None:
    batch_stats = BatchStats()
    assert batch_stats.waste == 0.0
    batch_stats.count(Batch((_clip(50), _clip(30)), 100))
    assert (batch_stats.batches, batch_stats.clips, batch_stats.rows, batch_stats.padding) == (
        1,
        2,
        80,
        120,
    )
    assert batch_stats.waste == 0.6
