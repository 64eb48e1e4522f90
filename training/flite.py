"""English from flite, whose voices were built from recordings of people."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.corpus import DIGITS, SPEECH, Corpus, Label, draw_count, join
from training.features import SAMPLE_RATE, log_mel
from training.sentences import OUTSIDE, draw_outside
from training.vocabulary import LANGUAGES

__all__ = ["FLITE", "build_flite_corpus"]

Floats = NDArray[np.float32]

# The labels' language; the answers are English.
FLITE: Final = "flite"
_VOICES: Final = ("awb", "rms", "slt", "kal", "kal16")
_PITCHES: Final = {"awb": 130, "rms": 100, "slt": 170, "kal": 105, "kal16": 105}


@dataclass(frozen=True)
class _Task:
    seed: tuple[int, ...]
    kind: str


def build_flite_corpus(seed: int, digits: int, speech: int, threads: int = 2) -> Corpus:
    """So many digit strings and so much other speech; RuntimeError where flite is missing."""
    if shutil.which("flite") is None:
        raise RuntimeError("no flite on PATH: install it (Debian: apt-get install flite)")
    tasks = [
        _Task((seed, 10 + stage, number), kind)
        for stage, (kind, count) in enumerate(((DIGITS, digits), (SPEECH, speech)))
        for number in range(count)
    ]
    with ThreadPoolExecutor(threads) as pool:
        return join(list(pool.map(_make, tasks)))


def _make(task: _Task) -> tuple[Label, NDArray[np.float16]]:
    rng = np.random.default_rng(task.seed)
    words: tuple[int, ...] = ()
    if task.kind == DIGITS:
        words = tuple(int(word) for word in rng.integers(0, 10, draw_count(rng)))
        separator = str(rng.choice([" ", " ", ", "]))
        text = separator.join(LANGUAGES["en"].spoken[word] for word in words)
    else:
        text = draw_outside(rng, OUTSIDE["en"])
    voice = str(rng.choice(_VOICES))
    pitch = _PITCHES[voice] * rng.uniform(0.75, 1.35)
    samples = _say(text, voice, rng.uniform(0.75, 1.4), pitch)
    return Label(task.kind, FLITE, words), log_mel(samples).astype(np.float16)


def _say(text: str, voice: str, stretch: float, pitch: float) -> Floats:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "said.wav"
        settings = [f"duration_stretch={stretch:.3f}", f"int_f0_target_mean={pitch:.1f}"]
        options = [word for setting in settings for word in ("--setf", setting)]
        subprocess.run(["flite", "-voice", voice, *options, "-t", text, "-o", file], check=True)
        samples, rate = soundfile.read(str(file), dtype="float32")
    return np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), dtype=np.float32)
