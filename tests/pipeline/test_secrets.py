"""Passwords and signatures in references: used to read the audio, and seen nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import botocore.session
import pytest
from click.testing import CliRunner
from sensestream_producer.cli import sensestream

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import write_clip
from tests.support.stores import use_store

pytestmark = pytest.mark.long

SECRET = "hunter2"


@pytest.fixture
def store(clips: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A store that asks nobody who they are; its address. A whole one is too large to be here."""
    (clips / "calls").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(clips))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, name="store").start()
        address = f"http://127.0.0.1:{server.server_port}"
        use_store(monkeypatch, address)
        yield address
        server.shutdown()


def presigned(bucket: str, key: str) -> str:
    s3 = botocore.session.get_session().create_client("s3")
    url = s3.generate_presigned_url("get_object", {"Bucket": bucket, "Key": key}, ExpiresIn=60)
    return f"{url}&x-id={SECRET}"


def test_a_secret_in_a_reference_is_never_shown(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, store: str, redis_url: str
) -> None:
    write_clip(clips / "calls", 1, name="a.wav")
    worker = start_worker(s3_buckets="calls", allow_private_hosts=1, log_level="debug")
    heard = {
        pipeline.submit("s3://calls/a.wav"): "s3://calls/a.wav",
        pipeline.submit(presigned("calls", "a.wav")): f"{store}/calls/a.wav",
    }
    host = store.removeprefix("http://")
    refused = {
        pipeline.submit(f"http://user:{SECRET}@{host}/none?sig={SECRET}#{SECRET}"): (
            "audio_not_found", f"{store}/none"),
        pipeline.submit(f"s3://calls/none?X-Amz-Signature={SECRET}"): (
            "audio_not_found", "s3://calls/none"),
        pipeline.submit(f"redis://user:{SECRET}@host/0"): ("audio_forbidden", "redis://host/0"),
        pipeline.submit(f"s3://key:{SECRET}@calls/a.wav"): ("bad_request", "s3://calls/a.wav"),
        pipeline.submit("file:///a", callback_url=f"ftp://user:{SECRET}@h/?t={SECRET}"): (
            "bad_request", "file:///a"),
    }  # fmt: skip
    outcomes = {outcome["entry"]: outcome for outcome in pipeline.wait_for(7)}
    for entry, audio in heard.items():
        assert (outcomes[entry]["status"], outcomes[entry]["audio"]) == ("completed", audio)
    for entry, (error, audio) in refused.items():
        assert (outcomes[entry]["error"], outcomes[entry]["audio"]) == (error, audio)

    def command(*arguments: str) -> str:
        result = CliRunner().invoke(sensestream, ["--redis-url", redis_url, "dead", *arguments])
        assert result.exit_code == 0, result.output
        return result.output

    ids = [outcomes[entry]["id"] for entry, (error, _) in refused.items() if "audio" in error]
    shown = [command("list"), command("list", "--json"), command("show", *ids),
             command("replay", "--all", "--dry-run")]  # fmt: skip
    for text in (str(outcomes), worker.log_file.read_text(), *shown):
        assert "none" in text
        assert SECRET not in text
    # The letters hold the requests whole, or they could not be replayed.
    assert SECRET in str(pipeline.redis.xrange(KEYS.dead))
    for arguments in (("list",), ("list", "--json"), ("show", *ids)):
        assert SECRET in command(*arguments, "--secrets")
