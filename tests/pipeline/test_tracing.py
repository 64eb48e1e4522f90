"""One trace from a service's submit to the outcome, across processes; and nothing without it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import write_clip
from tests.support.collector import Collector, collector
from tests.support.traced_service import OWN

pytestmark = pytest.mark.long

SERVICE = Path(__file__).parents[1] / "support" / "traced_service.py"
TRACEPARENT = "00-{trace}-{span}-"  # and flags: sampled, perhaps random


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in span.attributes}


def of_request(kept: Collector, request: str) -> Any:
    [span] = [s for s in kept.spans if attributes(s).get("sensestream.request.id") == request]
    return span


def test_one_trace_reads_from_the_submit_to_the_outcome(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, redis_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    with collector() as kept:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", kept.url)
        worker = start_worker()
        run = [sys.executable, str(SERVICE), redis_url, write_clip(clips, 1)]
        said = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)
        pipeline.submit("file:///nowhere.wav", high=True, id="failed", traceparent="nonsense")
        pipeline.wait_for(4)
        assert worker.terminate() == 0  # and sends what it has left

    spans = {span["attributes"].get("sensestream.request.id", ""): span for span in said["spans"]}
    service = spans[""]
    for client in ("blocking", "asyncio", "double"):
        submit = spans[client]
        assert (submit["name"], submit["kind"]) == (f"submit {KEYS.requests}", "PRODUCER")
        assert (submit["trace"], submit["parent"]) == (service["trace"], service["span"])
        assert submit["attributes"]["messaging.message.id"]
        # The outcome's context is the request's, by the contract.
        assert said["back"][client].startswith(TRACEPARENT.format(**submit))
    assert spans["refused"]["status"] == "ERROR"
    assert "own" not in spans
    assert said["back"]["own"] == OWN

    assert kept.services == {"sensestream-worker"}
    for client in ("blocking", "asyncio"):
        heard = of_request(kept, client)
        assert heard.name == f"process {KEYS.requests}"
        assert heard.kind == heard.SPAN_KIND_CONSUMER
        assert heard.trace_id.hex() == service["trace"]
        assert heard.parent_span_id.hex() == spans[client]["span"]
        assert (
            attributes(heard)["messaging.message.id"]
            == (spans[client]["attributes"]["messaging.message.id"])
        )
        stages = [span for span in kept.spans if span.parent_span_id == heard.span_id]
        expected = {"fetch", "decode", "queue", "engine", "commit"}
        assert {s.name for s in stages} == (
            expected if client == "blocking" else {"fetch", "commit"}
        )
        for stage in stages:
            assert heard.start_time_unix_nano <= stage.start_time_unix_nano
            assert stage.end_time_unix_nano <= heard.end_time_unix_nano
    assert of_request(kept, "own").trace_id.hex() == OWN.split("-")[1]
    failed = of_request(kept, "failed")
    assert failed.parent_span_id == b""
    assert attributes(failed)["error.type"] == "audio_forbidden"
    assert failed.status.code == failed.status.STATUS_CODE_ERROR


def test_a_missing_exporter_is_named_at_the_start(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "zipkin")
    worker = start_worker(ready=False)
    assert worker.process.wait(60) == 2
    assert "OTEL_TRACES_EXPORTER='zipkin'" in worker.log_file.read_text()


def test_an_unreachable_collector_delays_no_worker(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1")
    worker = start_worker()
    pipeline.submit(write_clip(clips, 1))
    assert pipeline.wait_for(1)[0]["status"] == "completed"
    assert worker.terminate() == 0


WITHOUT = """
import sys
if sys.argv[1] == "absent":
    sys.modules["opentelemetry"] = None  # as if it were not installed
import redis.asyncio  # looks for it by itself
before = set(sys.modules)
import sensestream_consumer.worker, sensestream_consumer.telemetry.span_export, sensestream_producer
print(sorted(name for name in set(sys.modules) - before if name.startswith("opentelemetry")))
from sensestream_producer.testing import ScriptedPipeline
from sensestream_consumer.telemetry.tracing import Tracing
from sensestream_common.contract.keys import Keys
with ScriptedPipeline().blocking_client() as client:
    print(repr(client.transcribe("file:///a").traceparent))
    print(client.transcribe("file:///a", traceparent="00-1-2-01").traceparent)
"""


@pytest.mark.parametrize("installed", ["absent", "present"])
def test_without_the_extra_or_a_provider_nothing_is_loaded_and_contexts_pass(
    installed: str,
) -> None:
    command = [sys.executable, "-W", "error", "-c", WITHOUT, installed]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    assert done.stdout.splitlines() == ["[]", "''", "00-1-2-01"]
