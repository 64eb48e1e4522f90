"""A speaker left out of training is heard nowhere in it, in takes or in voices made of them.

Every speaker here is a tone, and every voice made of a take has a whistle above it, so that each
frame tells whose it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from training.features import mel_centres

TONES = {"george": 300.0, "jackson": 700.0, "lucas": 1400.0, "nicolas": 2800.0}
WHISTLE = 7000.0
RATE = 8000
TAKE = 6  # one that is trained on, and said again in other voices
# Mel bins: above the highest tone played fast, and below the whistle.
WHISTLES_FROM = 65

Samples = NDArray[np.float32]


def tone(hertz: float, count: int, rate: int) -> Samples:
    wave = 0.3 * np.sin(2 * np.pi * hertz / rate * np.arange(count))
    return np.asarray(wave, dtype=np.float32)


def with_a_whistle(takes: list[tuple[Samples, int]]) -> list[list[Samples]]:
    """In the vocoder's place: each take in six voices."""
    wide = [np.repeat(samples, 16000 // rate) for samples, rate in takes]
    return [[take + tone(WHISTLE, len(take), 16000)] * 6 for take in wide]


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """`training.recordings`, its synthesisers stubbed where they are not installed."""
    loaded = set(sys.modules)
    for name in ("pyworld", "espeakng_loader"):
        if importlib.util.find_spec(name) is None:
            monkeypatch.setitem(sys.modules, name, ModuleType(name))
    module = importlib.import_module("training.recordings")
    monkeypatch.setattr(module, "in_other_voices", with_a_whistle)
    yield module
    for name in set(sys.modules) - loaded:
        if name.startswith("training."):  # another test may need the real ones
            del sys.modules[name]


def recordings_of_all(training: ModuleType) -> list[Any]:
    return [
        training.Recording(digit, speaker, TAKE, tone(hertz, 2400, RATE), RATE)
        for speaker, hertz in TONES.items()
        for digit in range(10)
    ]


def heard(bank: Any) -> set[tuple[str, bool]]:
    """Whoever is drawn, forwards or backwards, and whether in a voice made of theirs."""
    rng = np.random.default_rng(1)
    drawn = [bank.draw_string(rng, 2)[1] for _ in range(150)]
    drawn += [bank.draw_reversed(rng, 2) for _ in range(150)]
    frames = np.concatenate(drawn)
    loudest = np.log(mel_centres())[frames[:, :WHISTLES_FROM].argmax(axis=1)]
    apart = np.abs(loudest[:, None] - np.log(list(TONES.values())))
    speakers = np.array(list(TONES))[apart.argmin(axis=1)]
    whistling = frames[:, WHISTLES_FROM:].max(axis=1) > frames.max(axis=1) - 3.0
    return set(zip(speakers.tolist(), whistling.tolist(), strict=True))


def everybody_but(speaker: str | None) -> set[tuple[str, bool]]:
    return {(name, revoiced) for name in TONES if name != speaker for revoiced in (False, True)}


@pytest.mark.parametrize("speaker", [*TONES, None])
def test_training_hears_everybody_but_the_speaker_left_out(
    training: ModuleType, speaker: str | None
) -> None:
    recordings = recordings_of_all(training)
    bank = training.SpeakerBank(recordings, speaker, training.build_voices(recordings))
    assert heard(bank) == everybody_but(speaker)


def test_the_command_trains_phase_one_alone_and_without_the_speaker(
    training: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("torch", reason="the training's requirements are not installed")
    run = importlib.import_module("training.run")
    recordings = recordings_of_all(training)
    trained, measured = [], []

    def train(seed: int, phase: Any, prepare: Any, folder: Path, report: Any) -> None:
        trained.append((phase, folder, heard(prepare()._bank)))

    nothing = training.Corpus((), np.zeros((0, 80), np.float16), np.zeros(1, np.int64))
    monkeypatch.setattr(run, "read_recordings", lambda _: recordings)
    monkeypatch.setattr(run, "read_prompts", lambda _: [])
    for corpus in ("_corpus", "_flite_corpus", "_festival_corpus"):
        monkeypatch.setattr(run, corpus, lambda _: nothing)
    monkeypatch.setattr(run, "normalisation_of", lambda _: None)
    monkeypatch.setattr(run, "train", train)
    monkeypatch.setattr(run, "export_directory", lambda *_: None)
    monkeypatch.setattr(run, "_measure", lambda *given: measured.append(given))

    for speaker in TONES:
        run.main(["--fsdd", "anywhere", "--work", str(tmp_path), "--left-out", speaker])

    phase = run.STAGES[0].phase
    assert trained == [
        (phase, tmp_path / f"left-out-{speaker}", everybody_but(speaker)) for speaker in TONES
    ]
    assert measured == [
        (tmp_path / f"left-out-{speaker}" / "model", recordings, speaker) for speaker in TONES
    ]
    with pytest.raises(ValueError, match="no recordings of 'jakson'"):
        run.main(["--fsdd", "anywhere", "--work", str(tmp_path), "--left-out", "jakson"])
