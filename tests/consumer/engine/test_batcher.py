"""Clips of many callers in one session: the same answers, whichever clips run together."""

from __future__ import annotations

import asyncio
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
import pytest
import structlog
from hypothesis import HealthCheck, given, settings, strategies as st
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.engine import Engine, Recogniser
from sensestream_consumer.engine.batching.batcher import Batcher
from sensestream_consumer.engine.batching.queue import Batch, BatchLimits, Clip
from sensestream_consumer.engine.decoding.ctc import Rows

from tests.consumer.engine.models import TinyModel
from tests.consumer.engine.speech import Samples

SECOND = 16_000
PATIENCE = 10.0
FOREVER = 3600.0  # a deadline that no test reaches
WIDTH = 560


class Session:
    """Stands where a GPU's session does: it answers when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.threads: set[int] = set()
        self.fails: Callable[[Batch], bool] = lambda _: False
        self.gate = threading.Event()
        self._changed = threading.Condition()

    def __call__(self, batch: Batch) -> Sequence[Rows]:
        with self._changed:
            self.batches.append([clip.length for clip in batch.clips])
            self.threads.add(threading.get_ident())
            self._changed.notify_all()
        assert self.gate.wait(PATIENCE)
        if self.fails(batch):
            raise ValueError(f"no room for {len(batch.clips)}")
        return [Rows(np.array([clip.length]), np.ones(1, np.float32)) for clip in batch.clips]

    def await_batches(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.batches) >= count, PATIENCE)


@pytest.fixture
def session() -> Iterator[Session]:
    session = Session()
    yield session
    session.gate.set()


def _features(rows: int) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.zeros((rows, 4), np.float32)


def _batcher(session: Session, *, max_wait: float = 0.0, rows: int = 4000) -> Batcher:
    return Batcher(session, BatchLimits(rows=rows, max_wait=max_wait), accepts_padding=True)


def test_what_arrives_while_a_batch_runs_makes_up_the_next(session: Session) -> None:
    batcher = _batcher(session)
    first = batcher.submit(_features(50), 0, 14)
    session.await_batches(1)
    others = [batcher.submit(_features(rows), 0, 14) for rows in (60, 40, 300, 55)]
    session.gate.set()
    assert [int(one.result(PATIENCE).ids[0]) for one in [first, *others]] == [50, 60, 40, 300, 55]
    assert session.batches == [[50], [60, 40, 55], [300]]
    assert len(session.threads) == 1  # one thread owns the session
    assert threading.get_ident() not in session.threads
    batcher.close()


def test_a_full_batch_runs_long_before_its_deadline(session: Session) -> None:
    session.gate.set()
    batcher = _batcher(session, max_wait=FOREVER, rows=2 * (64 + 4))
    both = [batcher.submit(_features(rows), 0, 14) for rows in (60, 40)]
    assert [int(one.result(PATIENCE).ids[0]) for one in both] == [60, 40]
    assert (batcher.batch_stats.batches, batcher.batch_stats.clips) == (1, 2)
    assert batcher.batch_stats.padding == 2 * 64 - 100
    batcher.close()


def test_a_lone_clip_runs_at_its_deadline(session: Session) -> None:
    session.gate.set()
    batcher = _batcher(session, max_wait=0.001)
    assert batcher.rows(_features(60), 0, 14).ids.tolist() == [60]
    batcher.close()


def test_a_batch_that_fails_runs_again_clip_by_clip(session: Session) -> None:
    batcher = _batcher(session)
    session.fails = lambda batch: any(clip.length == 40 for clip in batch.clips)
    blocker = batcher.submit(_features(300), 0, 14)
    session.await_batches(1)
    good, bad, other = (batcher.submit(_features(rows), 0, 14) for rows in (60, 40, 50))
    session.gate.set()
    assert blocker.result(PATIENCE).ids.tolist() == [300]
    assert good.result(PATIENCE).ids.tolist() == [60]
    assert other.result(PATIENCE).ids.tolist() == [50]
    with pytest.raises(ValueError, match="no room for 1"):
        bad.result(PATIENCE)
    assert batcher.batch_stats.retried == 3
    batcher.close()


def test_clips_that_wait_when_it_closes_are_told(session: Session) -> None:
    batcher = _batcher(session)
    running = batcher.submit(_features(50), 0, 14)
    session.await_batches(1)
    waiting = batcher.submit(_features(60), 0, 14)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    assert not running.done()
    # The lock is free while a batch runs: closing has been noted once no clip is taken any more.
    while True:
        try:
            extra = batcher.submit(_features(10), 0, 14)
        except RuntimeError:
            break
        assert not extra.done()
    session.gate.set()
    closing.join(PATIENCE)
    assert running.result(PATIENCE).ids.tolist() == [50]
    with pytest.raises(RuntimeError, match="closed"):
        waiting.result(PATIENCE)


def test_the_log_says_once_a_minute_what_was_padding(session: Session) -> None:
    session.gate.set()
    now = [0.0]
    limits = BatchLimits(max_wait=0.0)
    batcher = Batcher(session, limits, accepts_padding=True, clock=lambda: now[0])
    with structlog.testing.capture_logs() as lines:
        batcher.rows(_features(48), 0, 14)
        now[0] = 59.0
        batcher.rows(_features(48), 0, 14)
        assert lines == []
        now[0] = 61.0
        batcher.rows(_features(48), 0, 14)
        now[0] = 62.0
        batcher.rows(_features(48), 0, 14)
    batcher.close()
    (line,) = lines
    assert line["event"] == "batches"
    assert (line["batches"], line["clips"], line["padding"]) == (3, 3, 0.25)


@pytest.fixture(scope="module")
def float_demo(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model with its float graph alone."""
    directory = tmp_path_factory.mktemp("float") / "demo"
    shutil.copytree(demo, directory, ignore=lambda _, names: {"model_quant.onnx"} & set(names))
    return directory


@pytest.fixture(scope="module")
def alone(float_demo: Path) -> Recogniser:
    return Recogniser.load(float_demo, device="cpu")


@pytest.fixture(scope="module")
def batching(float_demo: Path) -> Iterator[Recogniser]:
    recogniser = Recogniser.load(
        float_demo, device="cpu", batching=BatchLimits(rows=1500, max_wait=FOREVER)
    )
    yield recogniser
    recogniser.close()


def _speech(seed: int, length: int) -> Samples:
    """Something with the ups and downs of speech."""
    random = np.random.default_rng(seed)
    time = np.arange(length) / SECOND
    pitch = 120 + 80 * np.sin(2 * np.pi * random.uniform(0.5, 3) * time + seed)
    voice = sum(np.sin(2 * np.pi * n * np.cumsum(pitch) / SECOND) / n for n in range(1, 12))
    swell = np.clip(np.sin(2 * np.pi * random.uniform(1, 4) * time), 0, 1)
    wave = 6000 * swell * voice + random.normal(0, 40, length)
    samples: Samples = np.clip(wave, -32768, 32767).astype(np.int16)
    return samples


_CLIPS = st.lists(
    st.tuples(
        st.integers(0, 30),
        st.integers(300, 9 * SECOND),
        st.sampled_from(["auto", "zh", "en", "ko"]),
        st.booleans(),
    ),
    min_size=2,
    max_size=8,
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clips=_CLIPS, order=st.randoms(use_true_random=False))
def test_clips_give_the_same_tokens_alone_and_in_a_batch(
    alone: Recogniser, batching: Recogniser, clips: list[tuple[int, int, str, bool]], order: object
) -> None:
    """Every batch is made by hand, so that nothing depends on when a thread wakes."""
    frontend, description = alone._frontend, alone._graph.description
    inputs = [
        (
            frontend(_speech(seed, length)),
            description.languages[language],
            description.with_itn if itn else description.without_itn,
        )
        for seed, length, language, itn in clips
    ]
    expected = [
        alone._graph.best(features[np.newaxis], [len(features)], [language], [textnorm])[0]
        for features, language, textnorm in inputs
    ]
    assert batching._batcher is not None
    batch = [Clip(*one, Future()) for one in inputs]
    batching._batcher.run_now(batch, max(clip.length for clip in batch))
    for clip, rows in zip(batch, expected, strict=True):
        together = clip.rows.result(0)
        assert np.array_equal(together.ids, rows.ids)
        assert np.allclose(together.probabilities, rows.probabilities, atol=1e-4)


def test_an_engine_that_batches_answers_as_one_that_does_not(
    alone: Recogniser, float_demo: Path
) -> None:
    clips = [_speech(seed, (seed + 1) * SECOND) for seed in range(8)]
    clips.append(np.concatenate([_speech(9, 20 * SECOND), _speech(10, 25 * SECOND)]))
    expected = [alone.recognise(clip, "auto", itn=True) for clip in clips]

    async def scenario() -> None:
        recogniser = Recogniser.load(float_demo, device="cpu", batching=BatchLimits(max_wait=0.002))
        engine = Engine(recogniser, concurrency=2)
        assert engine.capacity == recogniser.clips_in_flight > 2
        answers = await asyncio.gather(*(engine.transcribe(clip, "auto", True) for clip in clips))
        assert [one.text for one in answers] == [one.text for one in expected]
        assert [one.segments for one in answers] == [one.segments for one in expected]
        assert recogniser.batch_stats is not None
        assert recogniser.batch_stats.clips >= len(clips) + 1
        await engine.aclose()
        recogniser.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("wide_mask", [False, True], ids=["older mask", "newer mask"])
def test_both_generations_of_graphs_are_warmed_up_and_batch(
    wide_mask: bool, tmp_path: Path
) -> None:
    limits = BatchLimits(rows=600, max_wait=0.001)
    recogniser = Recogniser.load(
        TinyModel(wide_mask=wide_mask).write(tmp_path), device="cpu", batching=limits
    )
    recogniser.warm_up()
    assert recogniser.batch_stats is not None
    assert recogniser.batch_stats.clips == 0  # warming up does not count
    assert recogniser.recognise(np.zeros(SECOND, np.int16), "en", itn=True).text == "hello world"
    recogniser.close()


def test_a_clip_on_which_the_graph_fails_fails_alone(tmp_path: Path) -> None:
    model = TinyModel(sherpa=True, metadata={"lang_ko": "99"})
    recogniser = Recogniser.load(
        model.write(tmp_path), device="cpu", batching=BatchLimits(max_wait=0.001)
    )
    with pytest.raises(RequestError, match=r"failed on 1\.00 s") as failed:
        recogniser.recognise(np.zeros(SECOND, np.int16), "ko", itn=True)
    assert failed.value.code is ErrorCode.INTERNAL
    assert recogniser.recognise(np.zeros(SECOND, np.int16), "en", itn=True).text == "hello world"
    recogniser.close()
