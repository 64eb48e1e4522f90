"""The command line, as a person or a script sees it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from redis import Redis
from sensestream_common.contract.errors import ErrorCode, SensestreamError
from sensestream_common.contract.keys import Keys
from sensestream_common.contract.outcome import Outcome, Status
from sensestream_producer.cli import sensestream
from sensestream_producer.cli.many import handled
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.background import answered
from tests.support.waiting import wait_until_sync

Invoke = Callable[..., Result]
Start = Callable[..., "Running"]
MAIN = [sys.executable, "-c", "from sensestream_producer.cli import main; main()"]
URL = "https://example.org/a.wav"


@pytest.fixture
def keys() -> Keys:
    return Keys("sensestream")


@pytest.fixture
def redis(redis_server: EmbeddedRedis) -> Iterator[Redis]:
    with redis_server.client() as client:
        yield client


@pytest.fixture
def invoke(redis_url: str) -> Invoke:
    def run(*arguments: str, **options: Any) -> Result:
        return CliRunner().invoke(sensestream, ["--redis-url", redis_url, *arguments], **options)

    return run


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "talk.wav"
    path.write_bytes(b"RIFF....WAVE")
    return path


def waiting(redis: Redis, stream: str) -> list[dict[bytes, bytes]]:
    found: Any = redis.xrange(stream)
    return [raw for _, raw in found]


def test_a_file_is_uploaded_and_its_request_id_is_all_that_is_printed(
    invoke: Invoke, redis: Redis, keys: Keys, recording: Path
) -> None:
    result = invoke("submit", str(recording), "--language", "en", "--no-itn")
    assert (result.exit_code, result.stderr) == (0, "")
    request_id = result.stdout.strip()
    [raw] = waiting(redis, keys.requests)
    assert raw[b"id"].decode() == request_id
    assert raw[b"audio"].decode() == f"redis:{keys.upload(request_id)}"
    assert (raw[b"language"], raw[b"itn"]) == (b"en", b"0")
    assert redis.get(keys.upload(request_id)) == b"RIFF....WAVE"


def test_by_reference_sends_the_file_url_alone(
    invoke: Invoke, redis: Redis, keys: Keys, recording: Path
) -> None:
    spaced = recording.with_name("a talk#1.wav")
    assert invoke("submit", "--by-reference", str(spaced)).exit_code == 0
    [raw] = waiting(redis, keys.requests)
    assert raw[b"audio"].decode() == f"file://{recording.parent}/a%20talk%231.wav"
    assert redis.keys("*upload*") == []


def test_traceparent_of_the_environment_is_sent_with_the_request(
    invoke: Invoke, redis: Redis, keys: Keys
) -> None:
    assert invoke("submit", URL, env={"TRACEPARENT": "00-1-2-01"}).exit_code == 0
    assert waiting(redis, keys.requests)[0][b"traceparent"] == b"00-1-2-01"


def test_an_invalid_callback_url_is_refused_before_anything_is_sent(
    invoke: Invoke, redis: Redis, keys: Keys
) -> None:
    for url in ("ftp://user:hunter2@h/", "https://?t=hunter2", "h/hook"):
        result = invoke("submit", URL, "--callback-url", url)
        assert result.exit_code == 1
        assert "is not an http:// or https:// URL with a host" in result.stderr
        assert "hunter2" not in result.stderr
    assert not redis.exists(keys.requests)


def test_a_url_is_sent_as_it_is_with_every_option(invoke: Invoke, redis: Redis, keys: Keys) -> None:
    options = ["--priority", "high", "--ttl", "60", "--metadata", '{"n": 1.10}', "--id", "x"]
    options += ["--callback-url", "https://h/hook?t=1", "--traceparent", "00-1-2-01"]
    result = invoke("submit", URL, *options, "--deadline", "30", "--format", "json")
    assert result.exit_code == 0, result.output
    receipt = json.loads(result.stdout)
    assert (receipt["id"], receipt["lane"], receipt["duplicate"]) == ("x", "high", False)
    [raw] = waiting(redis, keys.requests_high)
    assert raw[b"metadata"] == b'{"n": 1.10}'
    assert (raw[b"callback_url"], raw[b"traceparent"]) == (b"https://h/hook?t=1", b"00-1-2-01")
    assert int(raw[b"deadline"]) - int(raw[b"submitted_at"]) == 30_000
    again = invoke("submit", URL, "--id", "x")
    assert (again.exit_code, again.stdout) == (0, "x\n")
    assert "stands already" in again.stderr


def test_standard_input_is_uploaded_within_the_limit(
    invoke: Invoke, redis: Redis, keys: Keys
) -> None:
    assert invoke("submit", "-", "--id", "x", input=b"RIFF").exit_code == 0
    assert redis.get(keys.upload("x")) == b"RIFF"
    result = invoke("submit", "-", "--max-upload-bytes", "3", input=b"RIFF")
    assert result.exit_code == 1
    assert "--max-upload-bytes" in result.stderr


def test_waiting_prints_the_transcript(
    invoke: Invoke, redis_url: str, keys: Keys, recording: Path
) -> None:
    with answered(redis_url, keys, text="good morning"):
        one = invoke("submit", "--wait", str(recording))
        both = invoke("submit", "--wait", str(recording), URL)
        srt = invoke("submit", str(recording), "--format", "srt")
        as_json = invoke("submit", "--wait", str(recording), "--format", "json")
    assert (one.exit_code, one.stdout, one.stderr) == (0, "good morning\n", "")
    assert both.stdout == f"{recording}\tgood morning\n{URL}\tgood morning\n"
    assert srt.stdout.endswith("good morning\n\n")
    assert json.loads(as_json.stdout)["text"] == "good morning"


def test_an_output_directory_has_a_file_for_each_recording(
    invoke: Invoke, redis_url: str, keys: Keys, tmp_path: Path
) -> None:
    sources = [tmp_path / "a" / "talk.wav", tmp_path / "b" / "talk.wav", tmp_path / "b" / "x.mp3"]
    for source in sources:
        source.parent.mkdir(exist_ok=True)
        source.write_bytes(b"RIFF")
    out = tmp_path / "out"
    with answered(redis_url, keys):
        result = invoke("submit", *map(str, sources), "--format", "vtt", "--output-dir", str(out))
    assert (result.exit_code, result.stdout) == (0, "")
    assert sorted(path.name for path in out.iterdir()) == ["talk-2.vtt", "talk.vtt", "x.vtt"]
    assert (out / "talk.vtt").read_text("utf-8").startswith("WEBVTT\n\n")


def test_one_bad_file_is_named_and_the_others_are_submitted(
    invoke: Invoke, redis: Redis, keys: Keys, recording: Path
) -> None:
    missing = recording.with_name("missing.wav")
    result = invoke("submit", str(missing), str(recording))
    assert result.exit_code == 1
    assert str(missing) in result.stderr
    assert len(result.stdout.splitlines()) == len(waiting(redis, keys.requests)) == 1


def test_a_wait_that_is_too_long_ends_with_a_sentence(invoke: Invoke, recording: Path) -> None:
    result = invoke("submit", "--wait", str(recording), "--timeout", "0.1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "within 0.1 s" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["submit", "."], "is a directory"),
        (["submit"], "Missing argument"),
        (["submit", "a", "b", "--id", "x"], "--id names one"),
        (["submit", "a", "b", "--format", "srt"], "--output-dir"),
        (["submit", "a", "--language", "xx"], "'xx'"),
        (["watch", "--live", "--from", "0"], "--live"),
        (["dead", "replay"], "--all"),
        (["dead", "purge", "x", "--all"], "--all"),
        (["dead", "list", "--older-than", "soon"], "'soon'"),
    ],
)
def test_a_wrong_usage_is_status_2_and_says_what_is_wrong(arguments: list[str], said: str) -> None:
    result = CliRunner().invoke(sensestream, arguments)
    assert result.exit_code == 2
    assert said in result.stderr


@pytest.mark.parametrize("command", ["submit", "watch", "status", "dead", "demo"])
def test_help_shows_an_example_of_each_command(command: str) -> None:
    result = CliRunner().invoke(sensestream, [command, "--help"])
    assert result.exit_code == 0
    assert f"sensestream {command}" in result.stdout


def test_status_of_a_request_and_of_the_pipeline(invoke: Invoke) -> None:
    invoke("submit", URL, "--id", "x")
    assert json.loads(invoke("status", "x", "--json").stdout)["state"] == "queued"
    assert "queued" in invoke("status", "x").stdout
    pipeline = json.loads(invoke("status", "--json").stdout)
    assert (pipeline["backlog"], pipeline["counters"]) == (1, {"submitted": 1})
    assert "waiting" in invoke("status").stdout
    unknown = invoke("status", "never")
    assert isinstance(unknown.exception, SensestreamError)


def bury(redis: Redis, keys: Keys, request_id: str, error: str, age: int) -> None:
    at = time.time_ns() // 1_000_000 - age * 1000
    fields: Any = {
        "audio": "file:///a.wav",
        "id": request_id,
        "dead:error": error,
        "dead:message": "gone\x1b[31m",
        "dead:at": str(at),
    }
    redis.xadd(keys.dead, fields)


def test_dead_letters_are_listed_shown_replayed_and_purged(
    invoke: Invoke, redis: Redis, keys: Keys
) -> None:
    bury(redis, keys, "old", "audio_not_found", 7200)
    bury(redis, keys, "new", "audio_not_found", 0)
    bury(redis, keys, "poison", "attempts_exhausted", 0)
    listed = invoke("dead", "list", "--older-than", "1h")
    assert "old" in listed.stdout
    assert "\x1b" not in listed.stdout
    assert len(listed.stdout.splitlines()) == 1
    as_json = invoke("dead", "list", "--error", "attempts_exhausted", "--json")
    assert json.loads(as_json.stdout)["request"] == {"audio": "file:///a.wav", "id": "poison"}
    assert "file:///a.wav" in invoke("dead", "show", "new").stdout
    dry = invoke("dead", "replay", "--error", "audio_not_found", "--dry-run")
    assert dry.stdout.count("would replay") == 2
    assert redis.xlen(keys.dead) == 3
    replayed = invoke("dead", "replay", "--error", "audio_not_found")
    assert (replayed.exit_code, replayed.stderr) == (0, "2 replayed\n")
    assert [raw[b"id"] for raw in waiting(redis, keys.requests)] == [b"old", b"new"]
    assert invoke("dead", "purge", "--all", "--dry-run").stdout.count("would purge") == 1
    assert invoke("dead", "purge", "poison").stdout == "poison\n"
    assert redis.xlen(keys.dead) == 0


def test_a_refused_replay_is_reported_with_status_1(
    invoke: Invoke, redis: Redis, keys: Keys
) -> None:
    bury(redis, keys, "x", "audio_not_found", 0)
    invoke("submit", URL, "--id", "x")
    result = invoke("dead", "replay", "x")
    assert result.exit_code == 1
    assert "queued already" in result.stderr


def write(redis: Redis, keys: Keys, number: int) -> str:
    outcome = Outcome(
        id=f"r{number}", entry=f"{number}-1", status=Status.COMPLETED, text=f"text {number}"
    )
    fields: Any = outcome.encode()
    written: Any = redis.xadd(keys.transcripts, fields)
    return str(written.decode())


@pytest.fixture
def start(redis_url: str) -> Iterator[Start]:
    """Starts commands, and ends those that a failed test leaves running."""
    with ExitStack() as stack:

        def run(*arguments: str) -> Running:
            running = Running("--redis-url", redis_url, *arguments)
            stack.callback(running.close)
            return running

        yield run


class Running:
    """A command under way, its standard output read line by line."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [*MAIN, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip("\n")

    def close(self) -> None:
        self.process.kill()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        self.process.wait()

    def interrupt(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGINT)
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


def test_watch_goes_on_where_its_position_file_says_and_ends_cleanly_on_ctrl_c(
    start: Start, redis: Redis, keys: Keys, tmp_path: Path
) -> None:
    kept = tmp_path / "seen.txt"
    arguments = ["watch", "--position-file", str(kept)]
    first = write(redis, keys, 1)
    watch = start(*arguments, "--from", "0", "--json")
    seen = json.loads(watch.line())
    assert (seen["position"], seen["text"]) == (first, "text 1")
    wait_until_sync(lambda: kept.exists() and kept.read_text() == f"{first}\n")
    assert watch.interrupt() == (130, "")
    write(redis, keys, 2)
    again = start(*arguments)
    assert again.line() == "r2\t\t\ttext 2"
    assert again.interrupt() == (130, "")
    assert [path.name for path in tmp_path.iterdir()] == ["seen.txt"]


def test_watch_ends_after_count_outcomes(
    invoke: Invoke, redis: Redis, keys: Keys, tmp_path: Path
) -> None:
    ids = [write(redis, keys, number) for number in range(3)]
    kept = tmp_path / "seen.txt"
    arguments = ["watch", "--position-file", str(kept), "--count"]
    first = invoke(*arguments, "2", "--from", "0")
    assert (first.exit_code, first.stderr) == (0, "")
    assert first.stdout == "r0\t\t\ttext 0\nr1\t\t\ttext 1\n"
    assert kept.read_text() == f"{ids[1]}\n"
    assert invoke(*arguments, "1").stdout == "r2\t\t\ttext 2\n"


def test_watch_reports_a_gap_on_standard_error(start: Start, redis: Redis, keys: Keys) -> None:
    ids = [write(redis, keys, number) for number in range(4)]
    redis.xtrim(keys.transcripts, maxlen=1, approximate=False)
    redis.set(keys.trimmed, ids[2])
    watch = start("watch", "--from", ids[0])
    assert watch.line() == "r3\t\t\ttext 3"
    status, errors = watch.interrupt()
    assert status == 130
    assert f"gap: outcomes after {ids[0]} and up to {ids[2]}" in errors


def test_watch_ends_quietly_when_its_output_is_closed(
    start: Start, redis: Redis, keys: Keys
) -> None:
    for number in range(3000):
        write(redis, keys, number)
    watch = start("watch", "--from", "0")
    watch.line()
    assert watch.process.stdout is not None
    watch.process.stdout.close()
    assert watch.process.wait(20) == 1
    assert watch.process.stderr is not None
    assert watch.process.stderr.read() == ""


def test_an_unreachable_redis_is_one_sentence_with_the_setting_and_no_password() -> None:
    result = subprocess.run(
        [*MAIN, "--redis-url", "redis://:secret@127.0.0.1:1", "status"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert "redis://…@127.0.0.1:1" in result.stderr
    assert "SENSESTREAM_REDIS_URL" in result.stderr
    assert "secret" not in result.stderr


def test_a_position_file_that_cannot_be_written_is_one_sentence(
    redis_url: str, tmp_path: Path
) -> None:
    kept = tmp_path / "missing" / "seen.txt"
    result = subprocess.run(
        [*MAIN, "--redis-url", redis_url, "watch", "--position-file", str(kept)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    assert str(kept.parent) in result.stderr


def test_a_progress_bar_is_drawn_only_at_a_terminal(redis_url: str, recording: Path) -> None:
    arguments = [*MAIN, "--redis-url", redis_url, "submit", str(recording), str(recording)]
    ours, theirs = pty.openpty()
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=theirs, text=True) as submit:
        os.close(theirs)
        out, _ = submit.communicate(timeout=20)
    drawn = b""
    with contextlib.suppress(OSError):  # EIO: the end of a terminal that nobody holds
        while chunk := os.read(ours, 65_536):
            drawn += chunk
    os.close(ours)
    assert submit.returncode == 0
    assert "submitting" in drawn.decode()
    assert len(out.splitlines()) == 2
    assert "submitting" not in out


def test_a_wrong_setting_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSESTREAM_PIPELINE", "two words")
    result = subprocess.run([*MAIN, "status"], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "SENSESTREAM_PIPELINE" in result.stderr


def test_the_codes_that_dead_letters_may_have_are_offered() -> None:
    shown = CliRunner().invoke(sensestream, ["dead", "list", "--error", "bad_request"])
    assert shown.exit_code == 2
    assert ErrorCode.AUDIO_NOT_FOUND.value in shown.stderr


def test_results_are_yielded_in_order_or_as_completed() -> None:
    async def collect(*, as_completed: bool) -> list[str]:
        known = asyncio.Event()

        async def handle(job: str) -> str:
            if job == "new":
                await known.wait()  # the hit after it is known first
            else:
                known.set()
            return job

        results = handled(["new", "known"], handle, as_completed=as_completed)
        return [job async for job, result in results if job == result]

    assert asyncio.run(collect(as_completed=False)) == ["new", "known"]
    assert asyncio.run(collect(as_completed=True)) == ["known", "new"]


def test_as_completed_implies_wait(invoke: Invoke, redis_url: str, keys: Keys) -> None:
    with answered(redis_url, keys, text="hello"):
        result = invoke("submit", "--as-completed", URL, f"{URL}?2")
    assert sorted(line.split("\t")[1] for line in result.stdout.splitlines()) == ["hello"] * 2
