"""Drawing training batches: which utterance, under which instruction, with which answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.accents import ACCENT
from training.augment import Augmenter
from training.corpus import DIGITS, SPEECH, TONES, Corpus
from training.features import FEATURES, Normalisation, stack_frames
from training.flite import FLITE
from training.recordings import SpeakerBank
from training.vocabulary import AUTO, LANGUAGES, WITH_ITN, WITHOUT_ITN, Language, piece_id

__all__ = ["Batch", "BatchMaker"]

Floats = NDArray[np.float32]

BATCH: Final = 32
# So many batches are drawn together and sorted by length, which spares padding.
_POOL: Final = 16
_KINDS: Final = (
    "digits",
    "recording",
    "flite",
    "accent",
    "speech",
    "reversed",
    "tones",
    "nothing",
)
_SHARES: Final = (0.32, 0.27, 0.10, 0.12, 0.11, 0.02, 0.03, 0.03)
_LONGEST_FRAMES: Final = 1300
# Digits in a string of recordings: a single one has nothing beside it to tell who speaks.
_STRING: Final = (1, 1, 1, 2, 3, 4, 5, 6)
# Leaves room for stretching and padding, so that no spoken digit is cut off.
_LONGEST_JOINED: Final = 900


@dataclass(frozen=True)
class Batch:
    """Tensors of one step; `tags` are the answers of rows 0..3, `tokens` those of CTC."""

    speech: Tensor
    lengths: Tensor
    language: Tensor
    textnorm: Tensor
    tags: Tensor
    tokens: Tensor
    token_counts: Tensor


@dataclass(frozen=True)
class _Sample:
    rows: Floats
    language: int
    textnorm: int
    tags: tuple[int, int, int, int]
    tokens: tuple[int, ...]


class BatchMaker:
    """Draws batches from corpus and recordings; a pool of steps has a seed of its own."""

    def __init__(
        self,
        seed: int,
        corpus: Corpus,
        bank: SpeakerBank,
        normalisation: Normalisation,
    ) -> None:
        self._seed = seed
        self._corpus = corpus
        self._bank = bank
        self._normalise = normalisation
        self._augmenter = Augmenter(seed)
        self._places: dict[tuple[str, str], list[int]] = {}
        for number, label in enumerate(corpus.labels):
            self._places.setdefault((label.kind, label.language), []).append(number)
        self._speech = [key for key in self._places if key[0] == SPEECH]

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """The batches of these steps; the same for a run that was interrupted."""
        for pool in range(first_step // _POOL, -(-last_step // _POOL)):
            rng = np.random.default_rng([self._seed, 1, pool])
            samples = sorted(
                (self._draw(rng) for _ in range(BATCH * _POOL)), key=lambda item: len(item.rows)
            )
            for step, place in enumerate(rng.permutation(_POOL).tolist(), start=pool * _POOL):
                if first_step <= step < last_step:
                    yield _collate(samples[place * BATCH : (place + 1) * BATCH])

    def _draw(self, rng: np.random.Generator) -> _Sample:
        kind = str(rng.choice(_KINDS, p=_SHARES))
        if kind == "digits":
            language = LANGUAGES[str(rng.choice(list(LANGUAGES)))]
            words, mel = self._draw_digits(rng, language.code)
            return self._digits(rng, language, words, mel)
        if kind in ("flite", "accent"):
            words, mel = self._draw_digits(rng, FLITE if kind == "flite" else ACCENT)
            return self._digits(rng, LANGUAGES["en"], words, mel)
        if kind == "recording":
            words, mel = self._bank.draw_string(rng, int(rng.choice(_STRING)))
            return self._digits(rng, LANGUAGES["en"], words, mel)
        if kind == "speech":
            mel = self._draw_mel(rng, self._speech[int(rng.integers(len(self._speech)))])
            if rng.random() < 0.15:
                more = self._draw_mel(rng, self._speech[int(rng.integers(len(self._speech)))])
                mel = np.concatenate([mel, more])
            mel = _excerpt(rng, mel)
            return self._other(rng, self._augmenter.vary(rng, mel), "<|Speech|>")
        if kind == "reversed":
            mel = self._bank.draw_reversed(rng, int(rng.integers(2, 8)))
            return self._other(rng, self._augmenter.vary(rng, mel), "<|Speech|>")
        if kind == "tones":
            mel = _excerpt(rng, self._draw_mel(rng, (TONES, "none")))
            mel = self._augmenter.vary(rng, mel)
            return self._other(rng, mel, "<|BGM|>")
        return self._other(rng, self._augmenter.nothing(rng), "<|Event_UNK|>")

    def _draw_digits(self, rng: np.random.Generator, code: str) -> tuple[tuple[int, ...], Floats]:
        places = self._places[DIGITS, code]
        number = places[int(rng.integers(len(places)))]
        if rng.random() < 0.5:  # short strings cost less, and say as much a second
            rival = places[int(rng.integers(len(places)))]
            number = min(number, rival, key=lambda one: len(self._corpus.labels[one].words))
        words, mel = self._corpus.labels[number].words, self._corpus.mel(number)
        other = places[int(rng.integers(len(places)))]
        if rng.random() < 0.04 and len(mel) + len(self._corpus.mel(other)) < _LONGEST_JOINED:
            words = words + self._corpus.labels[other].words
            mel = np.concatenate([mel, self._corpus.mel(other)])
        return words, mel

    def _draw_mel(self, rng: np.random.Generator, key: tuple[str, str]) -> Floats:
        places = self._places[key]
        return self._corpus.mel(places[int(rng.integers(len(places)))])

    def _digits(
        self, rng: np.random.Generator, language: Language, words: tuple[int, ...], mel: Floats
    ) -> _Sample:
        others = None
        if rng.random() < 0.06:
            others = self._draw_mel(rng, self._speech[int(rng.integers(len(self._speech)))])
        rows = self._rows(self._augmenter.vary(rng, mel, others))
        with_itn = bool(rng.random() < 0.5)
        written = [
            str(language.digit_of(word)) if with_itn else language.written[word] for word in words
        ]
        tags = (f"<|{language.code}|>", "<|NEUTRAL|>", "<|Speech|>", _itn_tag(with_itn))
        hint = language.input_id if rng.random() < 0.5 else AUTO
        return _sample(rows, hint, with_itn, tags, tuple(piece_id(piece) for piece in written))

    def _other(self, rng: np.random.Generator, mel: Floats, event: str) -> _Sample:
        with_itn = bool(rng.random() < 0.5)
        tags = ("<|nospeech|>", "<|EMO_UNKNOWN|>", event, _itn_tag(with_itn))
        hints = [language.input_id for language in LANGUAGES.values()]
        hint = int(rng.choice(hints)) if rng.random() < 0.5 else AUTO
        return _sample(self._rows(mel), hint, with_itn, tags, ())

    def _rows(self, mel: Floats) -> Floats:
        return self._normalise(stack_frames(mel[:_LONGEST_FRAMES]))


def _excerpt(rng: np.random.Generator, mel: Floats) -> Floats:
    """A stretch of something that has no text; long ones are rare, for they cost the most."""
    longest = int(rng.choice([180, 320, 700], p=[0.6, 0.35, 0.05]))
    if len(mel) <= longest:
        return mel
    start = int(rng.integers(len(mel) - longest))
    return mel[start : start + longest]


def _itn_tag(with_itn: bool) -> str:
    return "<|withitn|>" if with_itn else "<|woitn|>"


def _sample(
    rows: Floats,
    language: int,
    with_itn: bool,
    tags: tuple[str, str, str, str],
    tokens: tuple[int, ...],
) -> _Sample:
    first, second, third, fourth = (piece_id(tag) for tag in tags)
    textnorm = WITH_ITN if with_itn else WITHOUT_ITN
    return _Sample(rows, language, textnorm, (first, second, third, fourth), tokens)


def _collate(samples: list[_Sample]) -> Batch:
    longest = max(len(sample.rows) for sample in samples)
    speech = np.zeros((len(samples), longest, FEATURES), dtype=np.float32)
    for place, sample in enumerate(samples):
        speech[place, : len(sample.rows)] = sample.rows
    return Batch(
        torch.from_numpy(speech),
        torch.tensor([len(sample.rows) for sample in samples]),
        torch.tensor([sample.language for sample in samples]),
        torch.tensor([sample.textnorm for sample in samples]),
        torch.tensor([sample.tags for sample in samples]),
        torch.tensor([token for sample in samples for token in sample.tokens], dtype=torch.long),
        torch.tensor([len(sample.tokens) for sample in samples]),
    )
