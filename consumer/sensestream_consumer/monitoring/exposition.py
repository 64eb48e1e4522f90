"""Prometheus's text, from the counters and the gauges."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from sensestream_consumer.monitoring.gauges import GAUGES, Scrape
from sensestream_consumer.telemetry.metrics import REGISTRY

__all__ = ["render"]


class _Gauges(Collector):
    """The values of the gauges at one scrape."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape

    def collect(self) -> Iterator[Metric]:
        for gauge in GAUGES:
            kind = CounterMetricFamily if gauge.counts else GaugeMetricFamily
            family = kind(gauge.name, gauge.meaning, labels=gauge.labels)
            for labels, value in gauge.read(self._scrape):
                family.add_metric(labels, value)
            yield family


def render(scrape: Scrape | None, accept: str) -> tuple[bytes, str]:
    """All metrics and their content type, in the format that a scraper accepts.

    `None` for the scrape: the worker has no parts yet, and counters only.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a series beside each counter that nobody asks for
    scraped = CollectorRegistry()
    scraped.register(REGISTRY)
    if scrape is not None:
        scraped.register(_Gauges(scrape))
    ProcessCollector(registry=scraped)
    encode, content_type = choose_encoder(accept)
    return encode(scraped), content_type
