"""Warnings about a recording: given with every answer for its bytes, and for no others.

A damaged recording and a clean one of the same samples share a result.
"""

from __future__ import annotations

import hashlib
import json
import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from sensestream_consumer.audio import AudioPolicy, Spool, decode_with_warnings
from sensestream_producer import AudioWarning, blocking
from sensestream_producer.cli import sensestream

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import damaged, encoded, tone
from tests.support.gateways import GatewayProcess
from tests.support.waiting import wait_until_sync
from tests.support.workers import WorkerProcess

GONE = "file:///gone.wav"
WARNING = AudioWarning("audio_damaged", "lost – ? – is some of it")  # no surrogate can be sent
IN_STREAM = json.dumps([WARNING.to_json()], ensure_ascii=False, separators=(",", ":"))
REVISION = "new"


class Recordings:
    """A clean one and a damaged one, of the same samples."""

    def __init__(self, folder: Path) -> None:
        self.bytes = {"clean": encoded(tone(1)), "damaged": damaged(encoded(tone(1)))}
        self._folder = folder
        for name, content in self.bytes.items():
            (folder / f"{name}.wav").write_bytes(content)

    def uri(self, name: str) -> str:
        return (self._folder / f"{name}.wav").as_uri()

    def digest(self, name: str) -> str:
        return f"sha256:{hashlib.sha256(self.bytes[name]).hexdigest()}"


@pytest.fixture
def recordings(clips: Path) -> Recordings:
    return Recordings(clips)


def warned(outcome: dict[str, str]) -> bool:
    """Whether an outcome has the warning; it must have this one or none."""
    assert outcome["status"] == "completed", outcome
    assert outcome.get("warnings", "") in ("", IN_STREAM)
    return "warnings" in outcome


def ask(pipeline: Pipeline, audio: str, **fields: Any) -> dict[str, str]:
    """The outcome of one more request."""
    entry = pipeline.submit(audio, **fields)
    pipeline.wait_until_answered(entry)
    [outcome] = [each for each in pipeline.outcomes() if each["entry"] == entry]
    return outcome


@pytest.mark.parametrize("first", ["clean", "damaged"])
def test_a_worker_warns_of_the_damaged_bytes_and_of_no_others(
    pipeline: Pipeline, start_worker: StartWorker, recordings: Recordings, first: str
) -> None:
    worker = start_worker(revision=REVISION)
    second = "damaged" if first == "clean" else "clean"
    uses = []
    for name in (first, second, first, second):  # transcribed, same samples, then by their aliases
        outcome = ask(pipeline, recordings.uri(name))
        assert warned(outcome) == (name == "damaged")
        uses.append(outcome["cache"])
    for name in (first, second) * 2:  # by digest alone: as the worker remembers it
        outcome = ask(pipeline, GONE, digest=recordings.digest(name))
        assert warned(outcome) == (name == "damaged")
        uses.append(outcome["cache"])
    assert uses == ["miss"] + 7 * ["hit"]
    assert len({outcome["text"] for outcome in pipeline.outcomes()}) == 1

    worker.terminate()
    start_worker(revision=REVISION)  # knows them from their aliases alone
    for name in (first, second):
        assert warned(ask(pipeline, recordings.uri(name))) == (name == "damaged")
    assert pipeline.stats()["misses"] == 1


def test_the_alias_keeps_the_warnings_for_as_long_as_itself(
    pipeline: Pipeline, start_worker: StartWorker, recordings: Recordings
) -> None:
    worker = start_worker(revision=REVISION)
    aliases = {name: KEYS.audio(recordings.digest(name), REVISION) for name in recordings.bytes}
    for name in recordings.bytes:
        ask(pipeline, recordings.uri(name), ttl="100")
    clean = pipeline.redis.get(aliases["clean"])
    assert pipeline.redis.get(aliases["damaged"]) == clean + b" " + IN_STREAM.encode()
    pipeline.redis.persist(aliases["damaged"])
    assert warned(ask(pipeline, recordings.uri("damaged"), ttl="1000"))

    pipeline.redis.set(aliases["damaged"], clean, px=1)  # and it is written anew when it is gone
    wait_until_sync(lambda: not pipeline.redis.exists(aliases["damaged"]), what="the alias to end")
    assert warned(ask(pipeline, GONE, digest=recordings.digest("damaged"), ttl="1000"))
    assert pipeline.redis.get(aliases["damaged"]) == clean + b" " + IN_STREAM.encode()
    assert 900 < pipeline.redis.ttl(aliases["damaged"]) <= 1000
    assert not worker.logged("commit_incomplete")


@pytest.mark.parametrize("garbage", [" []", " [1]", "x", " [{"])
def test_a_malformed_alias_counts_as_none(
    pipeline: Pipeline, start_worker: StartWorker, recordings: Recordings, redis_url: str,
    garbage: str,
) -> None:  # fmt: skip
    worker = start_worker(revision=REVISION, reclaim_after=600)
    alias = KEYS.audio(recordings.digest("damaged"), REVISION)
    ask(pipeline, recordings.uri("damaged"))
    value = pipeline.redis.get(alias)
    pipeline.redis.set(alias, value[:64] + garbage.encode(), px=100_000)
    with blocking.Client(redis_url) as client:
        receipt = client.submit(recordings.uri("damaged"), digest=recordings.digest("damaged"))
    assert receipt.answer is None
    pipeline.wait_for(2)
    worker.kill()
    start_worker(revision=REVISION, reclaim_after=600)
    assert warned(ask(pipeline, recordings.uri("damaged")))


@pytest.mark.parametrize("first", ["clean", "damaged"])
def test_those_who_wait_for_a_transcription_have_the_warnings_of_their_own_bytes(
    pipeline: Pipeline, start_worker: StartWorker, recordings: Recordings, tmp_path: Path,
    first: str,
) -> None:  # fmt: skip
    gate = tmp_path / "gate"
    gate.touch()
    worker = start_worker(gate=gate, revision=REVISION)
    second = "damaged" if first == "clean" else "clean"
    asked = {pipeline.submit(recordings.uri(first)): first}
    wait_until_sync(gate.with_suffix(".reached").exists, what="a transcription under way")
    # The same bytes follow it in the worker; others of the same samples wait for its lease.
    for name in (first, second, first, second):
        asked[pipeline.submit(recordings.uri(name))] = name
    wait_until_sync(lambda: worker.holds(pipeline.redis, KEYS.requests) == 5, what="all read")
    gate.unlink()
    outcomes = pipeline.wait_for(5)
    # One that was read, and did not wait yet when the gate opened, finds the result: a hit.
    used = [outcome["cache"] for outcome in outcomes]
    assert used.count("miss") == 1
    assert "coalesced" in used
    for outcome in outcomes:
        assert warned(outcome) == (asked[outcome["entry"]] == "damaged")


@pytest.mark.parametrize("first", ["clean", "damaged"])
def test_one_who_waits_for_another_worker_has_the_warnings_of_its_own_bytes(
    pipeline: Pipeline, start_worker: StartWorker, recordings: Recordings, tmp_path: Path,
    first: str,
) -> None:  # fmt: skip
    gate = tmp_path / "gate"
    gate.touch()
    second = "damaged" if first == "clean" else "clean"
    leader = start_worker(gate=gate, revision=REVISION, read_ahead=1, concurrency=1)
    asked = {pipeline.submit(recordings.uri(first)): first}
    wait_until_sync(gate.with_suffix(".reached").exists, what="a transcription under way")
    assert leader.holds(pipeline.redis, KEYS.requests) == 1
    other = start_worker(revision=REVISION)
    with pipeline.redis.monitor() as seen:
        asked[pipeline.submit(recordings.uri(second))] = second
        looks = 0
        while looks < 2:  # at the lease: whether it is its own, and then whether it is still held
            looks += seen.next_command()["command"].startswith(f"GET {KEYS.lease('')}")
    gate.unlink()
    outcomes = pipeline.wait_for(2)
    assert {o["worker"]: o["cache"] for o in outcomes} == {
        leader.consumer: "miss", other.consumer: "coalesced"
    }  # fmt: skip
    for outcome in outcomes:
        assert warned(outcome) == (asked[outcome["entry"]] == "damaged")


@pytest.fixture(params=["clean", "damaged"])
def known(
    request: pytest.FixtureRequest, pipeline: Pipeline, start_worker: StartWorker,
    recordings: Recordings,
) -> WorkerProcess:  # fmt: skip
    """Both recordings are known, whichever came first; no worker answers any more."""
    first = request.param
    worker = start_worker(revision=REVISION, reclaim_after=600)
    for name in (first, "damaged" if first == "clean" else "clean"):
        ask(pipeline, recordings.uri(name))
    worker.signal(signal.SIGSTOP)
    return worker


@pytest.mark.usefixtures("known")
def test_a_client_that_answers_itself_gives_the_warnings(
    pipeline: Pipeline, recordings: Recordings, redis_url: str
) -> None:
    with blocking.Client(redis_url) as client, pipeline.redis.pubsub() as live:
        live.subscribe(KEYS.channel)
        live.get_message(timeout=5)
        for name in ("clean", "damaged", "damaged", "clean"):
            for upload in (False, True):
                if upload:
                    submitted = client.submit_file(recordings.bytes[name])
                else:
                    submitted = client.submit(GONE, digest=recordings.digest(name))
                answer = submitted.answer
                assert answer is not None
                assert answer.warnings == ((WARNING,) if name == "damaged" else ())
                assert client.wait(submitted.id).warnings == answer.warnings
                assert pipeline.outcomes()[-1] == answer.encode()
                announced = live.get_message(timeout=5)
                assert json.loads(announced["data"]) == answer.to_json()


@pytest.mark.usefixtures("known")
def test_a_gateway_that_answers_itself_gives_the_warnings(
    recordings: Recordings, redis_url: str, tmp_path: Path
) -> None:
    with (
        GatewayProcess(redis_url, tmp_path / "gateway.log") as gateway,
        httpx.Client(base_url=gateway.url, timeout=30) as http,
    ):
        for name in ("clean", "damaged", "clean"):
            expected = [WARNING.to_json()] if name == "damaged" else None
            file: Any = {"file": recordings.bytes[name]}
            job = http.post("/v1/transcriptions", files=file).json()
            assert job["outcome"]["cache"] == "hit"
            assert job["outcome"].get("warnings") == expected
            assert http.get(job["location"]).json() == job
            openai = [
                http.post(
                    "/v1/audio/transcriptions", files=file,
                    data={"model": "any", "response_format": form},
                ).json()
                for form in ("json", "verbose_json")
            ]  # fmt: skip
            assert [answer.get("warnings") for answer in openai] == [None, expected]


@pytest.mark.usefixtures("known")
def test_the_command_line_prints_them_on_standard_error(
    pipeline: Pipeline, recordings: Recordings, redis_url: str, clips: Path
) -> None:
    def run(*arguments: str) -> Any:
        done = CliRunner().invoke(sensestream, ["--redis-url", redis_url, *arguments])
        assert done.exit_code == 0, done.output
        return done

    damaged_file, clean_file = str(clips / "damaged.wav"), str(clips / "clean.wav")
    done = run("submit", "--wait", damaged_file, clean_file)
    assert done.stderr == f"sensestream: {damaged_file}: warning: {WARNING.message}\n"
    assert WARNING.message not in done.stdout
    found = json.loads(run("submit", "--wait", "--format", "json", damaged_file).stdout)
    assert found["warnings"] == [WARNING.to_json()]
    request_id = found["id"]
    shown = run("status", request_id).stdout
    assert f"warning  {WARNING.message}" in shown
    assert json.loads(run("status", request_id, "--json").stdout)["outcome"]["warnings"]

    count = len(pipeline.outcomes())
    done = run("watch", "--from", "0", "--count", str(count))
    assert f"sensestream: {request_id}: warning: {WARNING.message}\n" in done.stderr
    lines = run("watch", "--from", "0", "--count", str(count), "--json").stdout.splitlines()
    assert json.loads(lines[-1])["warnings"] == [WARNING.to_json()]


@pytest.mark.usefixtures("recordings")
def test_after_an_upgrade_a_popular_recording_is_decoded_anew_and_once(
    pipeline: Pipeline, start_worker: StartWorker, recordings: Recordings, redis_url: str
) -> None:
    """The old decoder loses half of a damaged recording, and each hit prolonged what it found."""
    digest, uri = recordings.digest("damaged"), recordings.uri("damaged")
    old = start_worker(revision="old", reclaim_after=2)
    with blocking.Client(redis_url) as client:
        half = client.transcribe(uri)
        assert client.submit(GONE, digest=digest).answer is not None
        whole = client.transcribe(recordings.uri("clean"))
        assert half.warnings == ()
        assert whole.duration == pytest.approx(2 * (half.duration or 0))

        new = start_worker(revision=REVISION, reclaim_after=2)  # both are there for a while
        for _ in range(3):
            receipt = client.submit(uri, digest=digest)
            outcome = client.wait(receipt.id)
            if outcome.worker == old.consumer:  # which has no other decoder
                assert (outcome.duration, outcome.warnings) == (half.duration, ())
            else:
                assert (outcome.duration, outcome.warnings) == (whole.duration, (WARNING,))
                assert receipt.answer is not None or outcome.worker == new.consumer
        old.terminate()
        misses = pipeline.stats()["misses"]
        found = [client.transcribe(uri, digest=digest) for _ in range(3)]
        assert {(each.duration, each.warnings) for each in found} == {(whole.duration, (WARNING,))}
        # Its samples are now those of the clean one, whose result is kept: nothing is transcribed.
        assert [each.cache for each in found] == ["hit"] * 3
        assert found[-1].worker.startswith("client-")
        assert pipeline.stats()["misses"] == misses == 2
        assert client.transcribe(recordings.uri("clean")).cache == "hit"


@pytest.mark.parametrize("first", ["clean", "damaged"])
def test_a_flac_damaged_in_the_middle_shares_its_result_and_keeps_its_warning(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, first: str
) -> None:
    flac = bytearray(encoded(tone(1, seconds=3), "FLAC"))
    flac[len(flac) // 2 : len(flac) // 2 + 400] = bytes(400)
    spool = Spool("flac", len(flac))
    spool.write(bytes(flac))
    with spool.finish() as fetched:
        samples, warnings = decode_with_warnings(fetched, AudioPolicy(roots=()))
    assert warnings
    uris = {}
    for name, content in (("damaged", bytes(flac)), ("clean", encoded(samples))):
        (clips / name).write_bytes(content)
        uris[name] = (clips / name).as_uri()
    start_worker()
    outcomes = [ask(pipeline, uris[name]) for name in 2 * (first, *(uris.keys() - {first}))]
    assert [outcome["cache"] for outcome in outcomes] == ["miss", "hit", "hit", "hit"]
    told = [outcome.get("warnings", "") for outcome in outcomes]
    expected = json.dumps([asdict(each) for each in warnings], ensure_ascii=False)
    assert [bool(each) for each in told] == [(first == "damaged") ^ (n % 2 == 1) for n in range(4)]
    assert {json.dumps(json.loads(each), ensure_ascii=False) for each in told if each} == {expected}
