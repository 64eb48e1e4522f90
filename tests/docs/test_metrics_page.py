"""docs/metrics.md and its alert rules speak of the metrics that there are."""

from __future__ import annotations

import re
from typing import Any

import yaml
from sensestream_consumer.monitoring.gauges import GAUGES
from sensestream_consumer.telemetry.metrics import REGISTRY
from sensestream_consumer.telemetry.stages import Stage

from tests.packaging.workspace import ROOT

PAGE = ROOT / "docs" / "metrics.md"
RULES = ROOT / "docs" / "prometheus-rules.yaml"
_SUFFIX = {"counter": "_total", "histogram": ""}


def rows() -> list[str]:
    """A row for each metric, as the code describes it."""
    described = [
        (gauge.name, "counter" if gauge.counts else "gauge", gauge.labels, gauge.meaning)
        for gauge in GAUGES
    ]
    for family in REGISTRY.collect():
        labels = _labels(family.name)
        name = family.name + _SUFFIX[family.type]
        described.append((name, family.type, labels, family.documentation))
    return [
        f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in labels) or '–'} | {meaning} |"
        for name, kind, labels, meaning in described
    ]


def _labels(name: str) -> tuple[str, ...]:
    # Asked of the metric itself: a family without samples yet does not tell its labels.
    metric: Any = REGISTRY._names_to_collectors[name]
    return tuple(metric._labelnames)


def series() -> set[str]:
    """Every name that a query may use."""
    names = {row.split("`")[1] for row in rows()}
    histograms = {row.split("`")[1] for row in rows() if "| histogram |" in row}
    return names | {f"{name}_{part}" for name in histograms for part in ("bucket", "count", "sum")}


def test_the_page_has_one_row_for_each_metric_as_the_code_describes_it() -> None:
    page = PAGE.read_text("utf-8").splitlines()
    written = [line for line in page if line.startswith("| `sensestream_")]
    assert sorted(written) == sorted(rows())
    text = PAGE.read_text("utf-8").partition("`stage` is one of")[2].partition("log")[0]
    assert set(Stage) <= set(re.findall(r"`(\w+)`", text))


def test_every_query_asks_for_a_metric_that_exists() -> None:
    rules = yaml.safe_load(RULES.read_text("utf-8"))
    queries = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    queries += re.findall(r"\| `(.*\(.*)` \|", PAGE.read_text("utf-8"))
    assert len(queries) > 15
    for query in queries:
        asked = set(re.findall(r"sensestream_\w+", query))
        assert asked, query
        assert asked <= series(), query


def test_every_alert_says_what_is_wrong_and_how_bad_it_is() -> None:
    rules = yaml.safe_load(RULES.read_text("utf-8"))["groups"][0]["rules"]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert rule["alert"].startswith("Sensestream")
        assert rule["labels"]["severity"] in {"critical", "warning"}
        assert rule["annotations"]["summary"].endswith(".")
