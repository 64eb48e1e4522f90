"""The engine: a bounded number of clips at once, and what becomes of cancelled ones."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from sensestream_common.contract.errors import RequestError
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.engine import Engine, NotStarted, Recogniser

from tests.consumer.engine.models import TinyModel

AUDIO = np.zeros(16_000, np.int16)
PATIENCE = 10.0


class Gate:
    """Stands where a recogniser does and takes as long as the test wants."""

    clips_in_flight = 1

    def __init__(self) -> None:
        self.open = threading.Event()
        self.started: list[str] = []
        self.finished: list[str] = []
        self.abandoned: dict[str, threading.Event] = {}
        self._changed = threading.Condition()

    def recognise(
        self,
        _samples: NDArray[np.int16],
        language: str,
        _itn: bool,
        *,
        abandoned: threading.Event,
        **_options: object,
    ) -> Transcript:
        self.abandoned[language] = abandoned
        self._note(self.started, language)
        assert self.open.wait(PATIENCE)
        self._note(self.finished, language)
        return Transcript(language)

    def _note(self, where: list[str], clip: str) -> None:
        with self._changed:
            where.append(clip)
            self._changed.notify_all()

    async def until_started(self, count: int) -> None:
        def wait() -> bool:
            with self._changed:
                return self._changed.wait_for(lambda: len(self.started) >= count, PATIENCE)

        assert await asyncio.to_thread(wait)


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.open.set()


def _engine(gate: Gate, concurrency: int) -> Engine:
    return Engine(cast("Recogniser", gate), concurrency=concurrency)


def _start(engine: Engine, clip: str) -> asyncio.Task[Transcript]:
    return asyncio.create_task(engine.transcribe(AUDIO, clip, itn=True), name=clip)


def test_a_real_recogniser_answers_through_the_engine(tmp_path: Path) -> None:
    async def scenario() -> None:
        recogniser = Recogniser.load(TinyModel().write(tmp_path), device="cpu")
        engine = Engine(recogniser, concurrency=2)
        clips = [engine.transcribe(AUDIO, "en", itn=True) for _ in range(6)]
        assert {transcript.text for transcript in await asyncio.gather(*clips)} == {"hello world"}
        with pytest.raises(RequestError, match="'de'"):
            await engine.transcribe(AUDIO, "de", itn=True)
        await engine.aclose()

    asyncio.run(scenario())


def test_no_more_clips_run_than_there_is_room_for(gate: Gate) -> None:
    async def scenario() -> None:
        engine = _engine(gate, 2)
        assert engine.capacity == 2
        tasks = [_start(engine, clip) for clip in "abcd"]
        await gate.until_started(2)
        assert gate.started == ["a", "b"]
        gate.open.set()
        assert [(await task).text for task in tasks] == list("abcd")
        await engine.aclose()

    asyncio.run(scenario())


def test_a_clip_cancelled_while_it_waits_is_never_started(gate: Gate) -> None:
    async def scenario() -> None:
        engine = _engine(gate, 1)
        running, waiting, last = (_start(engine, clip) for clip in "abc")
        await gate.until_started(1)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        gate.open.set()
        assert (await running).text == "a"
        assert (await last).text == "c"
        assert gate.started == ["a", "c"]
        await engine.aclose()

    asyncio.run(scenario())


def test_a_clip_cancelled_while_it_runs_keeps_its_thread_until_it_ends(gate: Gate) -> None:
    async def scenario() -> None:
        engine = _engine(gate, 1)
        running, waiting = _start(engine, "a"), _start(engine, "b")
        await gate.until_started(1)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert gate.started == ["a"]  # no second clip beside it
        assert gate.abandoned["a"].is_set()
        gate.open.set()
        assert (await waiting).text == "b"
        assert gate.finished == ["a", "b"]
        assert not gate.abandoned["b"].is_set()
        await engine.aclose()

    asyncio.run(scenario())


def test_closing_waits_for_what_runs_and_refuses_what_waits(gate: Gate) -> None:
    async def scenario() -> None:
        engine = _engine(gate, 1)
        running, waiting = _start(engine, "a"), _start(engine, "b")
        await gate.until_started(1)
        closing = asyncio.create_task(engine.aclose())
        with pytest.raises(RuntimeError, match="closed before this clip started"):
            await waiting
        assert not closing.done()
        gate.open.set()
        await closing
        assert (await running).text == "a"
        assert gate.finished == ["a"]
        with pytest.raises(RuntimeError, match="closed"):
            await engine.transcribe(AUDIO, "c", itn=True)
        await engine.aclose()  # a second time is harmless

    asyncio.run(scenario())


def test_room_for_nothing_is_refused(gate: Gate) -> None:
    with pytest.raises(ValueError, match="concurrency is 0"):
        _engine(gate, 0)


def test_a_clip_that_finds_no_thread_in_time_is_not_transcribed_and_one_under_way_is(
    gate: Gate,
) -> None:
    async def scenario() -> None:
        engine = _engine(gate, 1)
        running = asyncio.create_task(engine.transcribe(AUDIO, "a", True, start_within=1.0))
        await gate.until_started(1)
        with pytest.raises(NotStarted):
            await engine.transcribe(AUDIO, "b", True, start_within=1.0)
        # By now the time that the first one had to start in has ended too, while it ran.
        gate.open.set()
        assert (await running).text == "a"
        await engine.aclose()
        assert gate.started == ["a"]

    asyncio.run(scenario())
