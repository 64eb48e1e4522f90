"""What is read when somebody scrapes: of this worker, and of the whole group."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sensestream_common import __version__

from sensestream_consumer.monitoring.group_stats import Group, LaneFigures
from sensestream_consumer.monitoring.readiness import Readiness

if TYPE_CHECKING:
    from sensestream_consumer.components import Components

__all__ = ["GAUGES", "Gauge", "Scrape"]

Labels = tuple[str, ...]
Values = Iterator[tuple[Labels, float]]


@dataclass(frozen=True, slots=True)
class Scrape:
    """What there is to be read from, at one scrape."""

    vitals: Readiness
    parts: Components
    group: Group


@dataclass(frozen=True, slots=True)
class Gauge:
    """A value that goes up and down, or only up, where Redis counts it.

    `read` gives none where it is not known.
    """

    name: str
    meaning: str
    labels: Labels
    read: Callable[[Scrape], Values]
    counts: bool = False


def _lanes(figure: Callable[[LaneFigures], float | None]) -> Callable[[Scrape], Values]:
    def read(moment: Scrape) -> Values:
        for lane, figures in moment.group.lanes().items():
            value = figure(figures)
            if value is not None:
                yield (moment.parts.pipeline, lane.value), value

    return read


def _dead_letters(moment: Scrape) -> Values:
    if moment.group.figures:
        yield (moment.parts.pipeline,), moment.group.figures.dead_letters


def _transcripts(moment: Scrape) -> Values:
    if moment.group.figures:
        yield (moment.parts.pipeline,), moment.group.figures.transcripts


def _results(moment: Scrape) -> Values:
    if moment.group.figures:
        yield (moment.parts.pipeline,), moment.group.figures.results


def _completed(moment: Scrape) -> Values:
    if moment.group.figures:
        for use, count in moment.group.figures.completed.items():
            yield (moment.parts.pipeline, use.value), count


def _in_flight(moment: Scrape) -> Values:
    yield (), len(moment.parts.holding)


def _engine_busy(moment: Scrape) -> Values:
    yield (), moment.parts.engine.busy


def _engine_capacity(moment: Scrape) -> Values:
    yield (), moment.parts.engine.capacity


def _places_taken(moment: Scrape) -> Values:
    yield (), moment.parts.places.taken


def _places(moment: Scrape) -> Values:
    yield (), moment.parts.places.count


def _redis_up(moment: Scrape) -> Values:
    yield (), float(moment.vitals.redis_away_for() == 0)


def _ready(moment: Scrape) -> Values:
    yield (), float(not moment.vitals.obstacle())


def _info(moment: Scrape) -> Values:
    parts = moment.parts
    recogniser = parts.engine.recogniser
    yield (
        (
            __version__, parts.pipeline, parts.consumer,
            recogniser.name, recogniser.device, recogniser.fingerprint[:12],
        ),
        1,
    )  # fmt: skip


_PIPELINE: Labels = ("pipeline",)
_LANE: Labels = ("pipeline", "lane")

GAUGES: tuple[Gauge, ...] = (
    Gauge("sensestream_backlog_requests",
          "Requests not yet answered: undelivered and pending.",
          _LANE, _lanes(lambda lane: lane.backlog)),
    Gauge("sensestream_undelivered_requests",
          "Requests that no worker has read yet.",
          _LANE, _lanes(lambda lane: lane.undelivered)),
    Gauge("sensestream_pending_requests",
          "Requests read and not yet answered, those handed back among them.",
          _LANE, _lanes(lambda lane: lane.pending)),
    Gauge("sensestream_handed_back_requests",
          "Pending requests that nobody holds: they wait for a worker with room.",
          _LANE, _lanes(lambda lane: lane.handed_back)),
    Gauge("sensestream_oldest_pending_seconds",
          "Age of the oldest pending request, from its submission; absent when none is pending.",
          _LANE, _lanes(lambda lane: lane.oldest_pending)),
    Gauge("sensestream_oldest_undelivered_seconds",
          "Age of the oldest undelivered request, from its submission; absent when there is none.",
          _LANE, _lanes(lambda lane: lane.oldest_undelivered)),
    Gauge("sensestream_dead_letters", "Dead letters kept.", _PIPELINE, _dead_letters),
    Gauge("sensestream_transcripts", "Outcomes kept on the stream.", _PIPELINE, _transcripts),
    Gauge("sensestream_cache_results",
          "Results kept; estimated from a sample where Redis holds more than a thousand keys.",
          _PIPELINE, _results),
    Gauge("sensestream_completed_requests_total",
          "Requests completed, by workers, or as repeats by whoever submitted them.",
          ("pipeline", "cache"), _completed, counts=True),
    Gauge("sensestream_in_flight_requests", "Requests this worker holds.", (), _in_flight),
    Gauge("sensestream_engine_busy", "Recordings the engine works on.", (), _engine_busy),
    Gauge("sensestream_engine_capacity",
          "Recordings the engine works on at once.", (), _engine_capacity),
    Gauge("sensestream_slots_in_use",
          "Requests at the engine or on their way to it.", (), _places_taken),
    Gauge("sensestream_slots",
          "Room for requests at the engine or on their way to it; what is beyond goes back.",
          (), _places),
    Gauge("sensestream_redis_up", "Whether Redis answers this worker.", (), _redis_up),
    Gauge("sensestream_ready",
          "Whether this worker is ready for work, as /health/ready says.", (), _ready),
    Gauge("sensestream_worker_info", "This worker and what it runs; always 1.",
          ("version", "pipeline", "consumer", "model", "device", "recogniser"), _info),
)  # fmt: skip
