"""Running an exported model directory: samples in, tags and pieces out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import sentencepiece
from numpy.typing import NDArray

from training.features import FEATURES, Normalisation, log_mel, stack_frames
from training.network import QUERIES
from training.vocabulary import AUTO, BLANK, LANGUAGES, PIECES, WITH_ITN, WITHOUT_ITN

__all__ = ["Answer", "Recogniser", "read_normalisation"]

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Answer:
    """Tags of rows 0..3, the emitted ids, their text, and how sure the model was.

    `margin` is the smallest gap, over all text rows and the language row, between the
    probabilities of the best and the second-best piece.
    """

    tags: tuple[str, str, str, str]
    ids: tuple[int, ...]
    text: str
    margin: float


def read_normalisation(path: Path) -> Normalisation:
    """The statistics of an `am.mvn`."""
    rows = re.findall(r"<LearnRateCoef> 0 \[ (.*?) \]", path.read_text(encoding="utf-8"))
    shift, scale = (np.array(row.split(), dtype=np.float32) for row in rows)
    return Normalisation(shift, scale)


class Recogniser:
    """One graph of a model directory, on one CPU thread."""

    def __init__(self, directory: Path, graph: str = "model_quant.onnx") -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(
            str(directory / graph), options, providers=["CPUExecutionProvider"]
        )
        self._normalise = read_normalisation(directory / "am.mvn")
        self._tokeniser = sentencepiece.SentencePieceProcessor(
            model_file=str(directory / "chn_jpn_yue_eng_ko_spectok.bpe.model")
        )

    def hear(self, samples: Floats, language: str = "auto", itn: bool = False) -> Answer:
        """The answer to mono samples in ±1 at 16 kHz."""
        return self.hear_together([samples], language, itn)[0]

    def hear_together(
        self, clips: Sequence[Floats], language: str = "auto", itn: bool = False
    ) -> list[Answer]:
        """The answers to several clips, run as one padded batch."""
        rows = [self._normalise(stack_frames(log_mel(clip))) for clip in clips]
        longest = max(len(part) for part in rows)
        speech = np.zeros((len(rows), longest, FEATURES), dtype=np.float32)
        for place, part in enumerate(rows):
            speech[place, : len(part)] = part
        hint = AUTO if language == "auto" else LANGUAGES[language].input_id
        logits, lengths = self._session.run(
            ["ctc_logits", "encoder_out_lens"],
            {
                "speech": speech,
                "speech_lengths": np.array([len(part) for part in rows], dtype=np.int32),
                "language": np.full(len(rows), hint, dtype=np.int32),
                "textnorm": np.full(len(rows), WITH_ITN if itn else WITHOUT_ITN, dtype=np.int32),
            },
        )
        return [self._answer(one[:count]) for one, count in zip(logits, lengths, strict=True)]

    def _answer(self, logits: Floats) -> Answer:
        best = logits.argmax(axis=1)
        first, second, third, fourth = (PIECES[number] for number in best[:QUERIES])
        path = best[QUERIES:]
        changed = np.concatenate([[True], path[1:] != path[:-1]])
        ids = tuple(int(number) for number in path[changed & (path != BLANK)])
        text = self._tokeniser.decode(list(ids))
        # The clearest row of a piece tells how sure it is; rows between two pieces may waver.
        emitted = _clearest_rows(logits[QUERIES:], path)
        margin = min(_margins(np.concatenate([logits[:1], *emitted])).tolist())
        return Answer((first, second, third, fourth), ids, text, margin)


def _clearest_rows(logits: Floats, path: NDArray[np.int64]) -> list[Floats]:
    starts = np.flatnonzero(np.concatenate([[True], path[1:] != path[:-1]]))
    rows = []
    for start, end in zip(starts, [*starts[1:], len(path)], strict=True):
        if path[start] != BLANK:
            stretch = logits[start:end]
            rows.append(stretch[int(_margins(stretch).argmax())][None])
    return rows


def _margins(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    ordered = np.sort(shifted / shifted.sum(axis=1, keepdims=True), axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2], dtype=np.float32)
