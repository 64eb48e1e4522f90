"""One request after another: what goes in, what comes out."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from sensestream_common.contract.keys import KEY_MAP, Retention

from tests.pipeline.conftest import KEYS, Pipeline, StartWorker
from tests.support.clips import encoded, tone, write_clip
from tests.support.waiting import wait_until_sync


def test_a_plain_xadd_becomes_one_outcome_on_stream_and_channel(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    with pipeline.redis.pubsub() as live:
        live.subscribe(KEYS.channel)
        assert live.get_message(timeout=5)["type"] == "subscribe"
        entry = pipeline.submit(write_clip(clips, 1), metadata='{"ticket": 7, "tags": []}')
        start_worker()
        [outcome] = pipeline.wait_for(1)
        message = wait_until_sync(lambda: live.get_message(timeout=1))
    assert outcome["entry"] == outcome["id"] == entry
    assert outcome["status"] == "completed"
    assert outcome["cache"] == "miss"
    assert outcome["attempt"] == "1"
    assert outcome["duration"] == "0.5"
    assert outcome["metadata"] == '{"ticket": 7, "tags": []}'
    assert outcome["submitted_at"] == entry.partition("-")[0]
    native = json.loads(message["data"])
    assert native["entry"] == entry
    assert native["metadata"] == {"ticket": 7, "tags": []}
    assert native["duration"] == 0.5
    assert isinstance(native["segments"], list)
    assert pipeline.pending() == []


def test_requests_pushed_before_the_first_worker_are_answered(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    entries = [pipeline.submit(write_clip(clips, seed)) for seed in range(5)]
    start_worker()
    assert sorted(o["entry"] for o in pipeline.wait_for(5)) == sorted(entries)


def test_recordings_of_the_warm_list_are_cache_hits(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    clip = write_clip(clips, 1)
    listed = tmp_path / "warm.txt"
    listed.write_text(f"{clip} en\n")
    for _ in range(2):  # the second worker finds it done
        start_worker(warm_list=listed)
    [warmed] = pipeline.wait_for(1)
    assert (warmed["cache"], warmed["metadata"]) == ("miss", '{"warm": true}')
    pipeline.submit(clip, language="en")
    assert [o["cache"] for o in pipeline.wait_for(2)] == ["miss", "hit"]


def test_every_malformed_request_gets_a_failed_outcome_and_harms_no_other(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    good = write_clip(clips, 1)
    thousands: dict[str, Any] = {f"f{n}": "x" for n in range(10_000)}
    wrong = {
        pipeline.submit(""): "bad_request",
        pipeline.submit("clip.wav"): "bad_request",
        pipeline.submit("ftp://host/clip.wav"): "bad_request",
        pipeline.submit(good, language="klingon"): "unsupported_language",
        pipeline.submit(good, itn="yes"): "bad_request",
        pipeline.submit(good, ttl="-1"): "bad_request",
        pipeline.submit(good, metadata="{"): "bad_request",
        pipeline.submit(good, id=b"\xff\xfe"): "bad_request",
        pipeline.submit(good, v="2"): "bad_request",
        pipeline.submit(good, **thousands): "bad_request",
        pipeline.submit(good, digest="md5:1"): "bad_request",
        pipeline.submit(good, digest="sha256:" + "0" * 64): "digest_mismatch",
        pipeline.submit(good, deadline="1"): "expired",
        pipeline.submit(clips.joinpath("none.wav").as_uri()): "audio_not_found",
        pipeline.submit("file:///etc/hostname"): "audio_forbidden",
        pipeline.submit("http://127.0.0.1:9/a.wav"): "audio_forbidden",
        pipeline.submit("data:audio/wav;base64,AAAA"): "audio_unreadable",
    }
    right = pipeline.submit(good)
    start_worker()
    outcomes = {o["entry"]: o for o in pipeline.wait_for(len(wrong) + 1)}
    assert outcomes.pop(right)["status"] == "completed"
    assert {e: o["error"] for e, o in outcomes.items()} == wrong
    assert all(o["status"] == "failed" and o["message"] for o in outcomes.values())
    dead = {f[b"dead:error"].decode() for _, f in pipeline.redis.xrange(KEYS.dead)}
    assert dead == {"audio_not_found", "audio_forbidden", "audio_unreadable"}


def test_a_dead_letter_keeps_the_request_whole(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    audio = clips.joinpath("none.wav").as_uri()
    pipeline.submit(audio, id="a1", unknown=b"\xff\x00")
    start_worker()
    pipeline.wait_for(1)
    [(_, letter)] = pipeline.redis.xrange(KEYS.dead)
    assert letter[b"audio"].decode() == audio
    assert letter[b"id"] == b"a1"
    assert letter[b"unknown"] == b"\xff\x00"
    assert letter[b"dead:error"] == b"audio_not_found"


def test_the_same_recording_in_other_containers_is_transcribed_once(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    samples = tone(1)
    files = {
        "plain.wav": encoded(samples),
        "plain.flac": encoded(samples, "FLAC"),
        "tagged.flac": encoded(samples, "FLAC", title="A title", artist="Somebody"),
        "tagged.wav": encoded(samples, title="Another title"),
    }
    assert len(set(files.values())) == 4
    for name, content in files.items():
        clips.joinpath(name).write_bytes(content)
    start_worker()
    for name in files:
        pipeline.submit(clips.joinpath(name).as_uri())
    outcomes = pipeline.wait_for(4)
    assert Counter(o["cache"] for o in outcomes)["miss"] == 1
    assert len({o["text"] for o in outcomes}) == 1
    assert len({o["digest"] for o in outcomes}) == 4


def test_recordings_with_the_same_beginning_are_told_apart(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    silence = tone(1, 2.0) * 0
    for seed in (1, 2):
        samples = silence.copy()
        samples[20_000:28_000] = tone(seed)
        clips.joinpath(f"{seed}.wav").write_bytes(encoded(samples))
    start_worker()
    for seed in (1, 2):
        pipeline.submit(clips.joinpath(f"{seed}.wav").as_uri())
    assert [o["cache"] for o in pipeline.wait_for(2)] == ["miss", "miss"]


def test_language_and_itn_are_part_of_a_results_identity(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    audio = write_clip(clips, 1)
    start_worker()
    wanted: list[dict[str, Any]] = [{}, {"language": "en"}, {"language": "zh"}, {"itn": "0"}]
    for fields in wanted:
        pipeline.submit(audio, **fields)
    assert Counter(o["cache"] for o in pipeline.wait_for(4)) == {"miss": 4}
    for fields in wanted:
        pipeline.submit(audio, **fields)
    assert Counter(o["cache"] for o in pipeline.wait_for(8)) == {"miss": 4, "hit": 4}


def test_a_known_digest_is_answered_without_reading_the_audio(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    audio = write_clip(clips, 1)
    path = Path(unquote(urlsplit(audio).path))
    digest = "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
    start_worker()
    pipeline.submit(audio)
    pipeline.wait_for(1)
    path.unlink()
    pipeline.submit(audio, digest=digest)
    _, repeat = pipeline.wait_for(2)
    assert repeat["cache"] == "hit"
    assert repeat["attempt"] == "0"
    assert repeat["digest"] == digest


def test_with_trust_digest_off_the_audio_is_always_read(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    audio = write_clip(clips, 1)
    digest = "sha256:" + hashlib.sha256(Path(urlsplit(audio).path).read_bytes()).hexdigest()
    start_worker(trust_digest=0)
    pipeline.submit(audio)
    pipeline.wait_for(1)
    Path(urlsplit(audio).path).unlink()
    pipeline.submit(audio, digest=digest)
    assert pipeline.wait_for(2)[1]["error"] == "audio_not_found"


def test_ttl_zero_stores_nothing_and_the_longer_ttl_wins_on_a_hit(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    audio = write_clip(clips, 1)
    start_worker()
    pipeline.submit(audio, ttl="0")
    pipeline.wait_for(1)
    assert pipeline.redis.keys("*:result:*") == pipeline.redis.keys("*:audio:*") == []
    pipeline.submit(audio, ttl="100")
    pipeline.wait_for(2)
    [result] = pipeline.redis.keys("*:result:*")
    assert 90 < pipeline.redis.ttl(result) <= 100
    pipeline.submit(audio, ttl="1000")
    pipeline.wait_for(3)
    assert 900 < pipeline.redis.ttl(result) <= 1000
    pipeline.submit(audio, ttl="10")
    pipeline.submit(audio, ttl="0")
    outcomes = pipeline.wait_for(5)
    assert 900 < pipeline.redis.ttl(result) <= 1000
    assert [o["cache"] for o in outcomes] == ["miss", "miss", "hit", "hit", "hit"]


def test_an_unusable_cache_entry_is_a_miss_and_not_a_failure(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    audio = write_clip(clips, 1)
    start_worker()
    pipeline.submit(audio)
    pipeline.wait_for(1)
    [result] = pipeline.redis.keys("*:result:*")
    [alias] = pipeline.redis.keys("*:audio:*")
    pipeline.redis.hset(result, "transcript", "not JSON")
    pipeline.submit(audio)
    assert pipeline.wait_for(2)[1]["status"] == "completed"
    pipeline.redis.set(alias, b"\xff")
    pipeline.submit(audio)
    assert pipeline.wait_for(3)[2]["status"] == "completed"
    pipeline.redis.delete(alias, result)
    pipeline.redis.rpush(alias, "a list")
    pipeline.redis.set(result, "a string")
    pipeline.submit(audio)
    assert pipeline.wait_for(4)[3]["status"] == "completed"


def test_an_uploaded_recording_is_deleted_with_its_answer(
    pipeline: Pipeline, start_worker: StartWorker
) -> None:
    pipeline.redis.set(KEYS.upload("u1"), encoded(tone(1)))
    pipeline.submit(f"redis:{KEYS.upload('u1')}", id="u1")
    start_worker()
    [outcome] = pipeline.wait_for(1)
    assert outcome["status"] == "completed"
    assert not pipeline.redis.exists(KEYS.upload("u1"))
    state = pipeline.redis.hgetall(KEYS.request("u1"))
    assert state[b"state"] == b"done"
    assert state[b"status"] == b"completed"
    assert 86_000 < pipeline.redis.ttl(KEYS.request("u1")) <= 86_400


def test_the_high_lane_is_read_first(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    normal = [pipeline.submit(write_clip(clips, n)) for n in range(4)]
    high = [pipeline.submit(write_clip(clips, 10 + n), high=True) for n in range(12)]
    start_worker(gate=gate, concurrency=1, read_ahead=4)
    gate.unlink()
    order = [o["entry"] for o in pipeline.wait_for(16)]
    assert set(order[:2]) <= set(high)
    mean_high = sum(order.index(e) for e in high) / len(high)
    mean_normal = sum(order.index(e) for e in normal) / len(normal)
    assert mean_high < mean_normal


def test_a_long_backlog_of_the_high_lane_does_not_starve_the_normal_one(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    normal = [pipeline.submit(write_clip(clips, n, seconds=0.2)) for n in range(3)]
    for n in range(10, 60):
        pipeline.submit(write_clip(clips, n, seconds=0.2), high=True)
    start_worker(gate=gate, concurrency=1, read_ahead=16)
    gate.unlink()
    order = [o["entry"] for o in pipeline.wait_for(53)]
    # One in nine, and not behind the last of the high lane.
    assert max(order.index(entry) for entry in normal) < 45


def test_hits_pass_while_the_engine_is_busy(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    known = write_clip(clips, 1)
    gate = tmp_path / "gate"
    start_worker(gate=gate, concurrency=1, read_ahead=32)
    pipeline.submit(known)
    pipeline.wait_for(1)
    gate.touch()
    misses = [pipeline.submit(write_clip(clips, 100 + n)) for n in range(12)]
    hits = [pipeline.submit(known) for _ in range(3)]
    wait_until_sync(lambda: len(pipeline.outcomes()) >= 2, what="a hit behind the misses")
    assert not {o["entry"] for o in pipeline.outcomes()} & set(misses)
    gate.unlink()
    outcomes = {o["entry"]: o for o in pipeline.wait_for(16)}
    assert all(outcomes[entry]["cache"] == "hit" for entry in hits)
    assert all(outcomes[entry]["attempt"] == "1" for entry in misses)


def test_no_key_is_left_without_its_retention(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker()
    pipeline.redis.set(KEYS.upload("u1"), encoded(tone(5)))
    pipeline.submit(f"redis:{KEYS.upload('u1')}", id="u1")
    pipeline.submit(write_clip(clips, 1), id="f1", callback_url="http://127.0.0.1:1/hook")
    pipeline.submit(write_clip(clips, 1), high=True)
    pipeline.submit(clips.joinpath("none.wav").as_uri(), id="n1")
    pipeline.wait_for(4)
    worker.terminate()
    kinds = {kind.pattern: kind for kind in KEY_MAP}
    for key in pipeline.redis.scan_iter():
        rest = key.decode().removeprefix(KEYS.prefix)
        pattern = rest if rest in kinds else rest.partition(":")[0] + ":*"
        kind = kinds[pattern]
        assert pipeline.redis.type(key).decode() == kind.type, rest
        if kind.retention in (Retention.TTL, Retention.QUEUED):
            assert pipeline.redis.ttl(key) > 0, rest
    assert pipeline.backlog() == 0


def test_a_request_may_expire_while_it_waits(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    gate.touch()
    start_worker(gate=gate, concurrency=1)
    pipeline.submit(write_clip(clips, 1))
    wait_until_sync(lambda: any(row["times_delivered"] > 1 for row in pipeline.pending()))
    deadline = int(time.time() * 1000) + 500
    # Twenty more than the engine has room for: these go back to the stream and wait there.
    late = [pipeline.submit(write_clip(clips, n), deadline=str(deadline)) for n in range(2, 22)]
    wait_until_sync(lambda: time.time() * 1000 > deadline + 100)
    gate.unlink()
    outcomes = {o["entry"]: o for o in pipeline.wait_for(21)}
    assert Counter(outcomes[entry].get("error", "") for entry in late)["expired"] >= 16
    assert pipeline.redis.xlen(KEYS.dead) == 0


def test_a_cached_transcript_that_cannot_be_sent_harms_no_neighbour(
    pipeline: Pipeline, start_worker: StartWorker, clips: Path
) -> None:
    worker = start_worker(reclaim_after=1)
    files = [write_clip(clips, n) for n in range(4)]
    pipeline.submit(files[0])
    pipeline.wait_for(1)
    [result] = pipeline.redis.keys("*:result:*")
    broken = json.loads(pipeline.redis.hget(result, "transcript"))
    broken["text"] = "\ud800"
    pipeline.redis.hset(result, "transcript", json.dumps(broken))
    entries = [pipeline.submit(files[n % 4]) for n in range(20)]
    outcomes = pipeline.wait_for(21)
    assert {o["entry"] for o in outcomes[1:]} == set(entries)
    assert {o["status"] for o in outcomes} == {"completed"}
    assert worker.process.poll() is None
