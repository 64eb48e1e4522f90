"""Everything hostile at once, at one running worker: each entry fails clearly, and it works on."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import psutil
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from tests.consumer.audio.recordings import encoded, every_format, lying_wav, tone
from tests.consumer.audio.site import Site, answer
from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import write_clip
from tests.support.waiting import wait_until_sync

pytestmark = pytest.mark.long

MEMORY = 300 * 2**20  # bytes that the worker may grow by: far below what the gallery claims to be
HOUR = 3600 * 16_000  # samples


@pytest.fixture
def site() -> Iterator[Site]:
    """A web site on the loopback, in a thread of its own."""
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever, daemon=True)
    thread.start()
    pages = Site()

    def run(step: Any) -> None:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(step, loop)
        future.result(10)

    run(pages.__aenter__())
    yield pages
    run(pages.__aexit__())
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def hostile_files(folder: Path) -> dict[str, str]:
    """References to files below the worker's root, with the error that each must end in."""
    contents = {
        "empty.wav": (b"", "audio_empty"),
        "no-samples.wav": (encoded(np.zeros(0, np.int16)), "audio_empty"),
        "cut.flac": (every_format()["flac"][:60], "audio_unreadable"),
        "text.mp3": (b"this is no recording" * 50, "audio_unreadable"),
        "nan.wav": (encoded(np.full(1600, np.nan), subtype="DOUBLE"), "audio_unreadable"),
        "infinite.wav": (encoded(np.full(1600, np.inf), subtype="FLOAT"), "audio_unreadable"),
        "one-hertz.wav": (lying_wav(rate=1), "audio_unreadable"),
        "gigahertz.wav": (lying_wav(rate=10**9), "audio_unreadable"),
        "no-channels.wav": (lying_wav(channels=0), "audio_unreadable"),
        "channels.wav": (encoded(np.zeros((160, 65), np.int16)), "audio_unreadable"),
        "endless.flac": (encoded(np.zeros(HOUR, np.int16), form="FLAC"), "audio_too_long"),
        "large.wav": (encoded(tone(70)), "audio_too_large"),
    }
    wanted = {}
    for name, (data, error) in contents.items():
        (folder / name).write_bytes(data)
        wanted[(folder / name).as_uri()] = error
    return wanted


def hostile_names(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "pipe.wav")
    (folder / "folder.wav").mkdir()
    (folder / "out.wav").symlink_to("/etc/hostname")
    (folder / "zero.wav").symlink_to("/dev/zero")
    (folder / "round.wav").symlink_to(folder / "round.wav")
    return {
        (folder / "pipe.wav").as_uri(): "audio_forbidden",
        (folder / "folder.wav").as_uri(): "audio_forbidden",
        (folder / "out.wav").as_uri(): "audio_forbidden",
        (folder / "zero.wav").as_uri(): "audio_forbidden",
        (folder / "round.wav").as_uri(): "audio_not_found",
        (folder / "line\nbreak.wav").as_uri(): "audio_not_found",
        f"{folder.as_uri()}/nul%00.wav": "bad_request",
        f"{folder.as_uri()}/../../../etc/passwd": "audio_forbidden",
        f"{folder.as_uri()}/{'long' * 100}.wav": "audio_not_found",
        "file:///dev/zero": "audio_forbidden",
        "file:///proc/self/environ": "audio_forbidden",
        "file://elsewhere/a.wav": "bad_request",
    }


def hostile_elsewhere(site: Site, pipeline: Pipeline) -> dict[str, str]:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
        while True:
            writer.write(b"R")
            await writer.drain()
            await asyncio.sleep(0.05)

    site.pages["/trickle"] = trickle
    site.pages["/round"] = answer(status="302 Found", Location="/round")
    site.pages["/file"] = answer(status="302 Found", Location="file:///etc/passwd")
    pipeline.redis.hset(KEYS.upload("hash"), "a", "b")
    return {
        site.url("/trickle"): "audio_unavailable",
        site.url("/round"): "audio_unavailable",
        site.url("/file"): "audio_forbidden",
        site.url("/missing"): "audio_not_found",
        "http://[::1": "bad_request",
        f"redis:{KEYS.upload('hash')}": "audio_unreadable",
        f"redis:{KEYS.stats}": "audio_forbidden",
        "redis:another-applications-key": "audio_forbidden",
        "data:audio/wav;base64,!!!": "bad_request",
        "data:audio/wav," + "A" * 300_000: "audio_too_large",
        "javascript:alert(1)": "bad_request",
        "x" * 100_000: "bad_request",
    }


def test_a_gallery_of_hostile_references_fails_clearly_and_the_next_request_is_served(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, site: Site
) -> None:
    worker = start_worker(
        max_audio_bytes=2_000_000, max_audio_seconds=60, fetch_timeout=0.5, allow_private_hosts=1
    )
    entry = pipeline.submit(write_clip(clips, 1))
    pipeline.wait_for(1)
    process = psutil.Process(worker.process.pid)
    before = process.memory_info().rss

    gallery = hostile_files(clips) | hostile_names(clips) | hostile_elsewhere(site, pipeline)
    wanted = {pipeline.submit(audio): (audio, error) for audio, error in gallery.items()}
    after = pipeline.submit(write_clip(clips, 2))
    outcomes = {o["entry"]: o for o in pipeline.wait_for(len(wanted) + 2)}

    told = {e: (audio, outcomes[e].get("error")) for e, (audio, _) in wanted.items()}
    assert {e: pair for e, pair in told.items() if pair != wanted[e]} == {}
    for outcome in map(outcomes.get, wanted):
        assert outcome is not None
        assert 10 < len(outcome["message"]) < 1000
        assert "\n" not in outcome["message"]
        assert "Traceback" not in outcome["message"]
    assert outcomes[entry]["status"] == outcomes[after]["status"] == "completed"
    assert worker.process.poll() is None
    assert process.memory_info().rss - before < MEMORY
    assert pipeline.pending() == []


def test_private_addresses_are_refused_however_they_are_written(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    start_worker()
    written = (
        "http://127.0.0.1/a.wav", "http://localhost/a.wav", "http://[::1]/a.wav",
        "http://2130706433/a.wav", "http://0x7f.1/a.wav", "http://0177.0.0.1/a.wav",
        "http://[::ffff:10.0.0.1]/a.wav", "http://169.254.169.254/latest/meta-data/",
        "http://user@192.168.1.1/a.wav", "http://0.0.0.0:6379/",
    )  # fmt: skip
    for audio in written:
        pipeline.submit(audio)
    last = pipeline.submit(write_clip(clips, 1))
    outcomes = pipeline.wait_for(len(written) + 1)
    errors = {o["audio"]: o["error"] for o in outcomes if o["entry"] != last}
    assert len(errors) == len(written)
    # A number that is written as no address is may be taken for no address at all.
    assert set(errors.values()) <= {"audio_forbidden", "bad_request"}


FIELDS = st.sampled_from(
    ("audio", "id", "language", "itn", "digest", "ttl", "deadline", "callback_url", "metadata",
     "submitted_at", "traceparent", "v", "unknown")
)  # fmt: skip
VALUES = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.sampled_from((b"", b"0", b"1", b"-1", b"9" * 40, b"nan", b"null", b"{}", b"\x00", b"auto")),
    st.sampled_from((b"file:///", b"http://", b"redis:", b"data:,", b"file://%00", b"\xff\xfe")),
)


def test_arbitrary_fields_end_in_one_outcome_for_each_entry(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker()
    good = write_clip(clips, 1)
    sent = 0

    @settings(
        max_examples=50, deadline=None, derandomize=True, database=None,
        suppress_health_check=[HealthCheck.too_slow],
    )  # fmt: skip
    @given(st.lists(st.dictionaries(FIELDS, VALUES, min_size=1, max_size=8), max_size=20))
    def send(batch: list[dict[str, bytes]]) -> None:
        nonlocal sent
        for fields in batch:
            # Half of them name a recording, so that the other fields are what is tried.
            sent += 1
            audio = {"audio": good} if sent % 2 else {}
            pipeline.redis.xadd(KEYS.requests, {**fields, **audio})

    send()
    last = pipeline.submit(good)
    wait_until_sync(lambda: pipeline.backlog() == 0, timeout=60, what="an empty backlog")
    outcomes = pipeline.outcomes()
    assert len({o["entry"] for o in outcomes}) == len(outcomes) == sent + 1
    assert not [o for o in outcomes if o.get("error") == "internal"]
    assert next(o for o in outcomes if o["entry"] == last)["status"] == "completed"
    assert worker.process.poll() is None


def test_a_folder_whose_name_is_no_utf_8_can_be_named_in_a_message(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    odd = Path(str(clips) + "/\udcff")
    odd.mkdir()
    start_worker(audio_roots=odd)
    pipeline.submit("file:///etc/hostname")
    assert pipeline.wait_for(1)[0]["error"] == "audio_forbidden"
