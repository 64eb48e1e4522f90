"""Recordings longer than the model takes at once: cut, transcribed in parallel, put together."""

from __future__ import annotations

import asyncio
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import onnx
import pytest
from sensestream_common.contract.errors import ModelError, RequestError
from sensestream_common.contract.transcript import Transcript
from sensestream_common.settings import load_settings
from sensestream_consumer.engine import Engine, Recogniser
from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.startup.model import load_recogniser

from tests.consumer.engine.models import TinyModel
from tests.consumer.engine.speech import Samples, read_speech
from tests.consumer.engine.vad_models import loudness_graph, write_vad

SECOND = 16_000
T = TypeVar("T")


def _noise(seconds: float, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return random.integers(-9000, 9000, round(seconds * SECOND)).astype(np.int16)


def _silence(seconds: float) -> Samples:
    return np.zeros(round(seconds * SECOND), np.int16)


def _tiny(tmp_path: Path, vad: Path | None = None) -> Recogniser:
    return Recogniser.load(TinyModel().write(tmp_path / "tiny"), device="cpu", vad=vad)


def test_with_a_voice_activity_model_long_silence_is_left_out(tmp_path: Path) -> None:
    recogniser = _tiny(tmp_path, vad=write_vad(tmp_path / "vad"))
    audio = np.concatenate([_silence(20), _noise(5), _silence(20), _noise(8), _silence(20)])
    pieces = [one.piece for one in recogniser.recognise_pieces(audio, "en", itn=True)]
    assert [round(piece.start / SECOND) for piece in pieces] == [20, 45]
    transcript = recogniser.recognise(audio, "en", itn=True)
    assert transcript.text == "hello world hello world"
    assert transcript.duration == 73.0
    assert [round(segment.start) for segment in transcript.segments] == [20, 45]


def test_a_long_recording_without_speech_is_no_speech(tmp_path: Path) -> None:
    recogniser = _tiny(tmp_path, vad=write_vad(tmp_path / "vad"))
    transcript = recogniser.recognise(_silence(40), "en", itn=True)
    assert transcript == Transcript(text="", language="nospeech", duration=40.0)


def test_a_failing_voice_activity_model_fails_the_request(tmp_path: Path) -> None:
    directory = write_vad(tmp_path / "vad")
    onnx.save(loudness_graph(longest=5), directory / "model.onnx")
    with pytest.raises(RequestError, match="voice activity model"):
        _tiny(tmp_path, vad=directory).recognise(_noise(40), "en", itn=True)


def test_another_way_of_cutting_is_another_recogniser(tmp_path: Path) -> None:
    fingerprints = {
        _tiny(tmp_path).fingerprint,
        _tiny(tmp_path, vad=write_vad(tmp_path / "one")).fingerprint,
        _tiny(tmp_path, vad=write_vad(tmp_path / "two", max_end_silence_time=600)).fingerprint,
    }
    assert len(fingerprints) == 3


def test_a_worker_s_setting_names_the_voice_activity_model(tmp_path: Path) -> None:
    model = TinyModel().write(tmp_path / "tiny")
    settings = load_settings(
        WorkerSettings, model=str(model), device="cpu", vad_model=str(tmp_path / "nowhere")
    )
    with pytest.raises(ModelError, match=r"SENSESTREAM_VAD_MODEL"):
        load_recogniser(settings)
    plain = load_recogniser(load_settings(WorkerSettings, model=str(model), device="cpu"))
    vad = str(write_vad(tmp_path / "vad"))
    cutting = load_recogniser(
        load_settings(WorkerSettings, model=str(model), device="cpu", vad_model=vad)
    )
    assert cutting.fingerprint != plain.fingerprint
    assert (plain.clips_in_flight, plain.batch_stats) == (1, None)


def _backwards(tasks: Sequence[Callable[[], T]]) -> list[T]:
    return [task() for task in reversed(tasks)][::-1]


def test_the_order_in_which_pieces_are_transcribed_does_not_matter(demo: Path, data: Path) -> None:
    speech = read_speech(data / "speech" / "jfk.flac")
    audio = np.concatenate([speech, _silence(1), speech[::2], speech, _noise(2), speech, speech])
    recogniser = Recogniser.load(demo, device="cpu")
    expected = recogniser.recognise(audio, "auto", itn=True)
    assert recogniser.recognise(audio, "auto", itn=True, run_tasks=_backwards) == expected

    async def scenario() -> list[Transcript]:
        engine = Engine(recogniser, concurrency=3)
        found = await asyncio.gather(*(engine.transcribe(audio, "auto", True) for _ in range(2)))
        await engine.aclose()
        return found

    assert asyncio.run(scenario()) == [expected, expected]


def test_pieces_of_one_recording_are_transcribed_at_the_same_time(tmp_path: Path) -> None:
    """Each piece waits until another one is under way: alone it would wait for ever."""
    recogniser = _tiny(tmp_path)
    meeting = threading.Barrier(2, timeout=10)
    rows = recogniser._rows

    def meet(*arguments: object, **options: object) -> object:
        meeting.wait()
        return rows(*arguments, **options)  # type: ignore[arg-type]

    recogniser._rows = meet  # type: ignore[assignment,method-assign]

    async def scenario() -> Transcript:
        engine = Engine(recogniser, concurrency=2)
        found = await engine.transcribe(_noise(50), "en", itn=True)
        await engine.aclose()
        return found

    assert asyncio.run(scenario()).text == "hello world hello world"


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    recogniser = _tiny(tmp_path, vad=write_vad(tmp_path / "vad"))

    def peak(minutes: int) -> int:
        audio = np.tile(np.concatenate([_noise(50), _silence(10)]), minutes)
        tracemalloc.start()
        recogniser.recognise(audio, "en", itn=True)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(10) < 1.5 * peak(2)
