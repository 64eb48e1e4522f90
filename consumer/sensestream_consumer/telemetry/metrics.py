"""The counters and histograms of a worker: of the whole process, since a worker is one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import CollectorRegistry, Counter, Histogram
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.outcome import CacheUse, Outcome, Status

from sensestream_consumer.telemetry.stages import Stage, StageTiming, seconds_by_stage

__all__ = [
    "AUDIO_SECONDS",
    "BATCH_CLIPS",
    "BATCH_ROWS",
    "DEAD_LETTERED",
    "DELIVERIES",
    "ENTRIES_HANDED_BACK",
    "ENTRIES_LOST",
    "GROUPS_RECREATED",
    "LATE_ANSWERS",
    "LEASES_LOST",
    "OUTCOMES",
    "QUEUE_WAIT_SECONDS",
    "REDIS_RECONNECTS",
    "REGISTRY",
    "REQUEST_SECONDS",
    "RETRIES",
    "STAGE_SECONDS",
    "count_outcome",
]

# From a hit, half a millisecond, to an hour of audio.
_SECONDS = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip

REGISTRY = CollectorRegistry()


def _counter(name: str, meaning: str, label: str = "", known: Iterable[str] = ()) -> Counter:
    """`known` labels are exposed as 0 from the start: a rate sees no increase from nothing to 1."""
    counter = Counter(name, meaning, [label] if label else [], registry=REGISTRY)
    for value in known:
        counter.labels(value)
    return counter


def _histogram(
    name: str, meaning: str, *labels: str, buckets: Sequence[float] = _SECONDS
) -> Histogram:
    return Histogram(name, meaning, labels, buckets=buckets, registry=REGISTRY)


DELIVERIES = _counter(
    "sensestream_deliveries",
    "Entries received: new from the stream, handed back by a worker without room or on its "
    "way out, or reclaimed from one that went silent.",
    "source",
    ("new", "handed_back", "reclaimed"),
)
ENTRIES_HANDED_BACK = _counter(
    "sensestream_entries_handed_back",
    "Entries handed back unanswered, for want of room or at the drain.",
)
OUTCOMES = Counter(
    "sensestream_outcomes",
    "Requests answered by this worker; cache is empty for failed ones, error for completed ones.",
    ("status", "cache", "error"),
    registry=REGISTRY,
)
for use in CacheUse:
    OUTCOMES.labels(Status.COMPLETED.value, use.value, "")
LATE_ANSWERS = _counter(
    "sensestream_late_answers", "Answers that came after another worker's, and were dropped."
)
DEAD_LETTERED = _counter(
    "sensestream_dead_lettered",
    "Requests that this worker gave up on and kept.",
    "error",
    (code.value for code in ErrorCode if code.dead_letter),
)
ENTRIES_LOST = _counter(
    "sensestream_entries_lost",
    "Entries that another worker took over while this one had them in flight.",
)
LEASES_LOST = _counter(
    "sensestream_leases_lost",
    "Leases on a recording that ran out while this worker transcribed it.",
)
RETRIES = _counter(
    "sensestream_retries",
    "Retries after a fault that may pass: of a fetch, of the engine, of a call to Redis.",
    "operation",
    ("fetch", "engine", "redis"),
)
REDIS_RECONNECTS = _counter(
    "sensestream_redis_reconnects",
    "Times that Redis answered again after it had not.",
    "connection",
    ("commands", "reader", "heartbeat"),
)
GROUPS_RECREATED = _counter(
    "sensestream_groups_recreated",
    "Consumer groups that were gone and made again: the request streams were deleted or lost.",
)
AUDIO_SECONDS = _counter(
    "sensestream_audio_seconds",
    "Seconds of audio in completed requests.",
    "cache",
    (use.value for use in CacheUse),
)
QUEUE_WAIT_SECONDS = _histogram(
    "sensestream_queue_wait_seconds",
    "From the submission of a request until this worker picked it up.",
)
REQUEST_SECONDS = _histogram(
    "sensestream_request_seconds",
    "From the submission of a request until its outcome was ready to be published.",
    "status",
    "cache",
)
STAGE_SECONDS = _histogram(
    "sensestream_stage_seconds",
    "Time a request spent in one stage; stages it did not pass through are not counted.",
    "stage",
)
BATCH_CLIPS = _histogram(
    "sensestream_batch_clips",
    "Clips computed together, only where the engine batches: on a GPU, or where it is set to.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128),
)
BATCH_ROWS = _counter(
    "sensestream_batch_rows",
    "Rows (60 ms each) computed in batches, of audio and of padding.",
    "kind",
    ("audio", "padding"),
)


class _Kind(NamedTuple):
    """The series of one kind of outcome: looked up by label they take longer than to add to."""

    outcomes: Counter
    seconds: Histogram
    audio: Counter | None
    dead: Counter | None


@lru_cache(maxsize=256)
def _kind(status: str, cache: str | None, error: ErrorCode | None) -> _Kind:
    return _Kind(
        OUTCOMES.labels(status, cache or "", error or ""),
        REQUEST_SECONDS.labels(status, cache or ""),
        AUDIO_SECONDS.labels(cache) if cache else None,
        DEAD_LETTERED.labels(error) if error and error.dead_letter else None,
    )


_STAGES = {stage: STAGE_SECONDS.labels(stage) for stage in Stage}


def count_outcome(outcome: Outcome, committed: bool, timings: Sequence[StageTiming]) -> None:
    """Count one request at its end, with the timings of its stages."""
    for stage, seconds in seconds_by_stage(timings).items():
        _STAGES[stage].observe(seconds)
    if not committed:
        LATE_ANSWERS.inc()
        return
    kind = _kind(outcome.status, outcome.cache, outcome.error)
    kind.outcomes.inc()
    if kind.dead:
        kind.dead.inc()
    if kind.audio and outcome.duration:
        kind.audio.inc(outcome.duration)
    submitted, started = outcome.submitted_at, outcome.started_at
    if submitted and started and outcome.finished_at:
        # A sender's own `submitted_at` may lie in the future.
        QUEUE_WAIT_SECONDS.observe(max(0, started - submitted) / 1e3)
        kind.seconds.observe(max(0, outcome.finished_at - submitted) / 1e3)
