"""The table of values that are read at a scrape: of this worker, and of the whole group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sensestream_common import __version__

from sensestream_consumer.monitoring.group_stats import Group, GroupFigures, LaneFigures
from sensestream_consumer.monitoring.readiness import MonitoredParts, Readiness

__all__ = ["GAUGES", "Gauge", "Scrape"]

Labels = tuple[str, ...]
Values = Iterator[tuple[Labels, float]]  # of labels and a value


@dataclass(frozen=True, slots=True)
class Scrape:
    """The sources that the gauges read from, at one scrape."""

    readiness: Readiness
    parts: MonitoredParts
    group: Group


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value that goes up and down, or only up, where Redis counts it.

    `read` yields nothing where the value is not known.
    """

    name: str
    meaning: str
    labels: Labels
    read: Callable[[Scrape], Values]
    counts: bool = False


def _of_lane(name: str, meaning: str, value: Callable[[LaneFigures], float | None]) -> Gauge:
    def read(scrape: Scrape) -> Values:
        for lane, figures in scrape.group.lanes().items():
            number = value(figures)
            if number is not None:
                yield (scrape.parts.pipeline, lane.value), number

    return Gauge(name, meaning, ("pipeline", "lane"), read)


def _of_group(name: str, meaning: str, value: Callable[[GroupFigures], float]) -> Gauge:
    def read(scrape: Scrape) -> Values:
        if scrape.group.figures:
            yield (scrape.parts.pipeline,), value(scrape.group.figures)

    return Gauge(name, meaning, ("pipeline",), read)


def _of_worker(name: str, meaning: str, value: Callable[[MonitoredParts], float]) -> Gauge:
    def read(scrape: Scrape) -> Values:
        yield (), value(scrape.parts)

    return Gauge(name, meaning, (), read)


def _of_readiness(name: str, meaning: str, value: Callable[[Readiness], bool]) -> Gauge:
    def read(scrape: Scrape) -> Values:
        yield (), float(value(scrape.readiness))

    return Gauge(name, meaning, (), read)


def _completed(scrape: Scrape) -> Values:
    if scrape.group.figures:
        for use, count in scrape.group.figures.completed.items():
            yield (scrape.parts.pipeline, use.value), count


def _info(scrape: Scrape) -> Values:
    parts = scrape.parts
    recogniser = parts.engine.recogniser
    labels = (__version__, parts.pipeline, parts.broker.consumer, recogniser.name,
              recogniser.device, recogniser.fingerprint[:12])  # fmt: skip
    yield labels, 1


GAUGES: tuple[Gauge, ...] = (
    _of_lane(
        "sensestream_backlog_requests",
        "Requests not yet answered: undelivered and pending.",
        lambda lane: lane.backlog,
    ),
    _of_lane(
        "sensestream_undelivered_requests",
        "Requests that no worker has read yet.",
        lambda lane: lane.undelivered,
    ),
    _of_lane(
        "sensestream_pending_requests",
        "Requests read and not yet answered, those handed back among them.",
        lambda lane: lane.pending,
    ),
    _of_lane(
        "sensestream_handed_back_requests",
        "Pending requests that no worker holds: they wait for one with room.",
        lambda lane: lane.handed_back,
    ),
    _of_lane(
        "sensestream_oldest_pending_seconds",
        "Age of the oldest pending request, from its submission; absent when none is pending.",
        lambda lane: lane.oldest_pending,
    ),
    _of_lane(
        "sensestream_oldest_undelivered_seconds",
        "Age of the oldest undelivered request, from its submission; absent when there is none.",
        lambda lane: lane.oldest_undelivered,
    ),
    _of_group("sensestream_dead_letters", "Dead letters kept.", lambda group: group.dead_letters),
    _of_group(
        "sensestream_transcripts", "Outcomes kept on the stream.", lambda group: group.transcripts
    ),
    _of_group(
        "sensestream_cache_results",
        "Results kept; estimated from a sample where Redis holds more than a thousand keys.",
        lambda group: group.results,
    ),
    Gauge(
        "sensestream_completed_requests_total",
        "Requests completed: by workers, or as cache hits by the client or the gateway.",
        ("pipeline", "cache"),
        _completed,
        counts=True,
    ),
    _of_worker(
        "sensestream_in_flight_requests",
        "Requests that this worker has in flight.",
        lambda worker: len(worker.in_flight),
    ),
    _of_worker(
        "sensestream_engine_busy",
        "Recordings the engine works on.",
        lambda worker: worker.engine.busy,
    ),
    _of_worker(
        "sensestream_engine_capacity",
        "Recordings the engine works on at once.",
        lambda worker: worker.engine.capacity,
    ),
    _of_worker(
        "sensestream_slots_in_use",
        "Requests at the engine or on their way to it.",
        lambda worker: worker.slots.in_use,
    ),
    _of_worker(
        "sensestream_slots",
        "Requests that may be at the engine or on their way to it; those beyond are handed back.",
        lambda worker: worker.slots.capacity,
    ),
    _of_readiness(
        "sensestream_redis_up",
        "Whether Redis answers this worker.",
        lambda readiness: readiness.redis_away_for() == 0,
    ),
    _of_readiness(
        "sensestream_ready",
        "Whether this worker is ready for work, as /health/ready says.",
        lambda readiness: not readiness.reason(),
    ),
    Gauge(
        "sensestream_worker_info",
        "This worker and what it runs; always 1.",
        ("version", "pipeline", "consumer", "model", "device", "recogniser"),
        _info,
    ),
)
