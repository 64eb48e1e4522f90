"""Decoding the rows of a SenseVoice graph: four classification rows, then CTC.

FunASR and sherpa-onnx collapse all rows together, which loses or misplaces a token wherever a
tag row is blank or equals its neighbour. Here the two kinds are taken apart first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sensestream_consumer.engine.model.vocabulary import BLANK

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TAG_ROWS", "Rows", "Token", "best_rows", "collapse", "rows_of"]

TAG_ROWS = 4  # language, emotion, event, inverse text normalisation


@dataclass(frozen=True, slots=True)
class Rows:
    """The best token of each row of one clip.

    `ids` int64[4 + rows]; `probabilities` float32[4 + rows], the softmax of the best token where
    it is not the blank and 0 elsewhere. A graph that takes the maximum itself gives the same.
    """

    ids: NDArray[np.int64]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Token:
    """A run of rows with the same token of the vocabulary: rows `first` to `last`, both included.

    Rows are counted from the first one after the tags.
    """

    id: int
    first: int
    last: int
    probability: float  # mean over the run

    @property
    def rows(self) -> int:
        """How many rows the run has."""
        return self.last - self.first + 1


def rows_of(logits: NDArray[np.float32]) -> Rows:
    """The best token of each row of raw logits, float32[4 + rows, tokens]."""
    ids = logits.argmax(axis=1)
    probabilities = np.zeros(ids.shape, np.float32)
    # A vocabulary of 25,055 makes the exponentials dear: most rows are blank and need none.
    spoken = np.flatnonzero(ids != BLANK)
    chosen = logits[spoken]  # a copy
    chosen -= chosen.max(axis=1, keepdims=True)
    probabilities[spoken] = 1.0 / np.exp(chosen, out=chosen).sum(axis=1)
    return Rows(ids, probabilities)


def best_rows(ids: NDArray[np.int64], probabilities: NDArray[np.float32]) -> Rows:
    """The same from a graph that took the maximum itself, int64[rows] and float32[rows]."""
    return Rows(ids, np.where(ids == BLANK, np.float32(0.0), probabilities))


def collapse(rows: Rows) -> list[Token]:
    """The CTC tokens of the rows after the tags: repeats merged, blanks dropped."""
    ids = rows.ids[TAG_ROWS:]
    if ids.size == 0:
        return []
    probabilities = rows.probabilities[TAG_ROWS:]
    starts = np.flatnonzero(np.concatenate(([True], ids[1:] != ids[:-1])))
    stops = np.append(starts[1:], ids.size)
    return [
        Token(int(ids[start]), int(start), int(stop) - 1, float(probabilities[start:stop].mean()))
        for start, stop in zip(starts, stops, strict=True)
        if ids[start] != BLANK
    ]
