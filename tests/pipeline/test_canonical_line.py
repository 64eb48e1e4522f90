"""The log of a worker: one line tells all about a request, and its other lines can be found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sensestream_consumer.telemetry.request_log import trace_id

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE}-00f067aa0ba902b7-01"


def lines(worker: WorkerProcess, entry: str) -> list[dict[str, Any]]:
    return [line for line in worker.events() if line.get("entry") == entry]


def test_every_request_has_one_line_with_its_trace_and_the_time_of_each_stage(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker()
    audio = write_clip(clips, 1)
    miss = pipeline.submit(audio, id="call-1", traceparent=TRACEPARENT)
    pipeline.wait_for(1)
    hit = pipeline.submit(audio)
    failed = pipeline.submit("clip.wav", traceparent="from-nowhere")
    outcomes = {o["entry"]: o for o in pipeline.wait_for(3)}
    # A line is written after its outcome.
    wait_until_sync(lambda: all(lines(worker, entry) for entry in outcomes))

    [heard], [again], [refused] = (lines(worker, entry) for entry in (miss, hit, failed))
    assert heard["event"] == again["event"] == refused["event"] == "request_answered"
    assert (heard["id"], heard["trace_id"], heard["cache"]) == ("call-1", TRACE, "miss")
    assert outcomes[miss]["traceparent"] == TRACEPARENT
    stages = {name for name in heard if name.endswith("_ms")} - {"waited_ms", "took_ms"}
    assert stages == {"fetch_ms", "decode_ms", "queue_ms", "engine_ms", "commit_ms"}
    assert all(heard[name] >= 0 for name in stages)
    assert heard["engine_ms"] > 0
    assert again["cache"] == "hit"
    assert "engine_ms" not in again
    assert (refused["status"], refused["error"]) == ("failed", "bad_request")
    assert "trace_id" not in refused


def test_every_line_about_a_request_names_the_request_and_its_trace(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker()
    pipeline.redis.set(KEYS.stats, "not a hash")
    entry = pipeline.submit(write_clip(clips, 1), id="call-1", traceparent=TRACEPARENT)
    other = pipeline.submit(write_clip(clips, 2))
    pipeline.wait_for(2)
    wait_until_sync(lambda: any(e["event"] == "request_answered" for e in lines(worker, entry)))
    said = lines(worker, entry)
    assert {line["event"] for line in said} == {"commit_incomplete", "request_answered"}
    assert {(line["id"], line["trace_id"]) for line in said} == {("call-1", TRACE)}
    assert all("trace_id" not in line for line in lines(worker, other))


@pytest.mark.parametrize(
    ("traceparent", "trace"),
    [
        (TRACEPARENT, TRACE),
        (TRACEPARENT.replace("00-", "01-", 1) + "-more", TRACE),
        (TRACEPARENT.upper(), None),
        (TRACEPARENT.replace("00-", "ff-", 1), None),
        (f"00-{'0' * 32}-00f067aa0ba902b7-01", None),
        ("", None),
    ],
)
def test_a_trace_is_named_by_a_valid_context_only(traceparent: str, trace: str | None) -> None:
    assert trace_id(traceparent) == trace
