"""The synthetic corpus: digit strings, speech outside the domain, and tones, as log-mel frames."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training import BLAS_THREADS
from training.accents import ACCENT, ACCENTED
from training.features import log_mel
from training.sentences import FOREIGN_VOICES, OUTSIDE, Outside, draw_outside, words_of
from training.sounds import coloured_noise, tones
from training.synthesis import Delivery, Synthesiser, shared_synthesiser
from training.vocabulary import LANGUAGES

__all__ = [
    "DIGITS",
    "HELD_OUT_VARIANTS",
    "SPEECH",
    "TONES",
    "VARIANTS",
    "Corpus",
    "Label",
    "build_corpus",
    "digits_spoken",
    "draw_count",
    "join",
]

Floats = NDArray[np.float32]

# Voice variants of espeak-ng. Those of the second list are heard in evaluation only, and no
# near twin of theirs is in the first. (`rob` is left out: it crashes espeak-ng.)
VARIANTS: Final = words_of(
    """m1 m2 m4 m5 m6 m7 m8 f1 f3 f4 f5 Alex Alicia Andy Annie Denis Diogo Henrique Hugo Jacky Lee
    Marco Mario Michael Mike Nguyen Reed Storm adam anika announcer antonio aunty benjamin boris
    caleb david ed grandma grandpa gustave ian iven iven3 john kaukovalta klatt klatt2 klatt4
    linda marcelo max michel miguel norbert pablo paul pedro robert sandro shelby travis
    victor zac croak RicishayMax Tweaky"""
)
HELD_OUT_VARIANTS: Final = ("m3", "f2", "Andrea", "Gene", "belinda", "edward", "quincy", "steph")

_ENGLISH_VOICES: Final = (
    *("en-us", "en-us", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-us-nyc"),
    *("en-gb-x-gbclan", "en-gb-x-gbcwmd"),
)

_CHUNK: Final = 400
# How numpy splits a product decides its last bit: as many threads as made the shipped corpus.
_BLAS_THREADS: Final = "2"

DIGITS, SPEECH, TONES = "digits", "speech", "tones"


@dataclass(frozen=True)
class Label:
    """What an utterance is; `words` are indices into `Language.written`."""

    kind: str
    language: str
    words: tuple[int, ...] = ()


@dataclass(frozen=True)
class Corpus:
    """Labels and their log-mel frames, kept in one array of half floats."""

    labels: tuple[Label, ...]
    frames: NDArray[np.float16]
    offsets: NDArray[np.int64]

    def mel(self, number: int) -> Floats:
        """Frames of one utterance, shape (frames, 80)."""
        return self.frames[self.offsets[number] : self.offsets[number + 1]].astype(np.float32)

    def with_more(self, other: Corpus) -> Corpus:
        """This corpus and another."""
        return Corpus(
            self.labels + other.labels,
            np.concatenate([self.frames, other.frames]),
            np.concatenate([self.offsets, other.offsets[1:] + self.offsets[-1]]),
        )

    def save(self, path: Path) -> None:
        """Write to a folder."""
        path.mkdir(parents=True, exist_ok=True)
        np.save(path / "frames.npy", self.frames)
        np.save(path / "offsets.npy", self.offsets)
        labels = json.dumps([asdict(label) for label in self.labels])
        (path / "labels.json").write_text(labels, encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Corpus:
        """Read from a folder that `save` wrote."""
        rows = json.loads((path / "labels.json").read_text(encoding="utf-8"))
        labels = tuple(Label(row["kind"], row["language"], tuple(row["words"])) for row in rows)
        return cls(labels, np.load(path / "frames.npy"), np.load(path / "offsets.npy"))


@dataclass(frozen=True)
class _Task:
    seed: tuple[int, ...]
    kind: str
    language: str


def digits_spoken(
    rng: np.random.Generator, synthesiser: Synthesiser, language: str, variant: str, count: int
) -> tuple[tuple[int, ...], Floats]:
    """A random string of `count` digits in a random delivery: word indices and samples."""
    spoken = LANGUAGES[language].spoken
    words = tuple(int(word) for word in rng.integers(0, len(spoken), count))
    voice = LANGUAGES[language].voice
    if language == "en":
        voice = str(rng.choice(_ENGLISH_VOICES))
    return words, _say(rng, synthesiser, [spoken[word] for word in words], f"{voice}+{variant}")


def _accented(
    rng: np.random.Generator, synthesiser: Synthesiser, variant: str, count: int
) -> tuple[tuple[int, ...], Floats]:
    """A random string of English digits with another language's sounds."""
    voice = str(rng.choice(list(ACCENTED)))
    words = tuple(int(word) for word in rng.integers(0, 10, count))
    spoken = [ACCENTED[voice][word] for word in words]
    return words, _say(rng, synthesiser, spoken, f"{voice}+{variant}")


def _say(
    rng: np.random.Generator, synthesiser: Synthesiser, spoken: Sequence[str], voice: str
) -> Floats:
    separator = str(rng.choice([" ", " ", " ", ", "]))
    return synthesiser.say(separator.join(spoken), voice, _delivery(rng))


def _delivery(rng: np.random.Generator) -> Delivery:
    return Delivery(
        rate=int(rng.integers(100, 231)),
        pitch=int(rng.integers(15, 91)),
        range=int(rng.integers(15, 91)),
        gap=int(rng.choice([0, 0, 0, 1, 3, 8, 15])),
    )


def draw_count(rng: np.random.Generator) -> int:
    """How many digits a string has: mostly one to six."""
    counts = np.arange(1, 11)
    weights = np.array([18, 12, 14, 14, 12, 10, 7, 6, 4, 3], dtype=float)
    return int(rng.choice(counts, p=weights / weights.sum()))


def _make(task: _Task) -> tuple[Label, NDArray[np.float16]]:
    synthesiser = shared_synthesiser()
    rng = np.random.default_rng(task.seed)
    words: tuple[int, ...] = ()
    if task.kind == DIGITS:
        variant = str(rng.choice(VARIANTS))
        count = draw_count(rng)
        if task.language == ACCENT:
            words, samples = _accented(rng, synthesiser, variant, count)
        else:
            words, samples = digits_spoken(rng, synthesiser, task.language, variant, count)
    elif task.kind == SPEECH:
        material = _material(task.language)
        voice = f"{material.voice}+{rng.choice(VARIANTS)}"
        if task.language == "en":
            voice = f"{rng.choice(_ENGLISH_VOICES)}+{rng.choice(VARIANTS)}"
        samples = synthesiser.say(draw_outside(rng, material), voice, _delivery(rng))
    else:
        make = tones if rng.random() < 0.7 else coloured_noise
        samples = make(rng, float(rng.uniform(0.5, 6.0)))
    return Label(task.kind, task.language, words), log_mel(samples).astype(np.float16)


def _in_fresh_process(tasks: list[_Task]) -> list[tuple[Label, NDArray[np.float16]]]:
    # An executor, not a Pool: where espeak-ng crashes, a Pool waits for ever. And one a chunk:
    # Python 3.11's executor may hang when it is told to renew its processes.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as one:
        return one.submit(_make_chunk, tasks).result()


def _make_chunk(tasks: list[_Task]) -> list[tuple[Label, NDArray[np.float16]]]:
    return [_make(task) for task in tasks]


def _material(language: str) -> Outside:
    return OUTSIDE.get(language) or FOREIGN_VOICES[language]


def build_corpus(
    seed: int,
    digits: int,
    speech: int,
    foreign: int,
    sounds: int,
    accented: int,
    processes: int = 2,
) -> Corpus:
    """Synthesise the corpus: so many digit strings and so much other speech a language.

    `accented` is the number of English strings in the accents of other languages.

    Every utterance draws from a seed of its own, and every chunk is made by a fresh process: what
    espeak-ng says depends in its details on what it said before. So the number of processes
    changes nothing.
    """
    tasks = [
        _Task((seed, stage, place, number), kind, language)
        for stage, (kind, languages, count) in enumerate(
            (
                (DIGITS, tuple(LANGUAGES), digits),
                (SPEECH, tuple(OUTSIDE), speech),
                (SPEECH, tuple(FOREIGN_VOICES), foreign),
                (TONES, ("none",), sounds),
                (DIGITS, (ACCENT,), accented),
            )
        )
        for place, language in enumerate(languages)
        for number in range(count)
    ]
    chunks = [tasks[start : start + _CHUNK] for start in range(0, len(tasks), _CHUNK)]
    with _blas_threads(_BLAS_THREADS), ThreadPoolExecutor(processes) as threads:
        made = [utterance for part in threads.map(_in_fresh_process, chunks) for utterance in part]
    return join(made)


@contextmanager
def _blas_threads(count: str) -> Iterator[None]:
    """Set for processes that start meanwhile; this one read its own number long ago."""
    own = os.environ[BLAS_THREADS]
    os.environ[BLAS_THREADS] = count
    try:
        yield
    finally:
        os.environ[BLAS_THREADS] = own


def join(made: Sequence[tuple[Label, NDArray[np.float16]]]) -> Corpus:
    """A corpus of labels and frames."""
    lengths = [len(frames) for _, frames in made]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Corpus(
        tuple(label for label, _ in made), np.concatenate([frames for _, frames in made]), offsets
    )
