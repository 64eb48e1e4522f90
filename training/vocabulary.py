"""The demo model's vocabulary: digits in five languages and SenseVoice's tags, by name.

SenseVoice's own vocabulary has 25,055 pieces. This one keeps its conventions (blank at 0, pieces
with a leading "▁" where a word begins, tags as pieces of their own) in fewer than a hundred, and
is written as a sentencepiece model, so that the tokeniser that serves SenseVoice serves this
model unchanged.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sentencepiece import sentencepiece_model_pb2

__all__ = [
    "AUTO",
    "BLANK",
    "LANGUAGES",
    "NO_SPEECH",
    "PIECES",
    "WITHOUT_ITN",
    "WITH_ITN",
    "Language",
    "piece_id",
    "write_sentencepiece",
    "write_tokens",
]

BLANK: Final = 0

# Its messages are made at import, where a type checker does not see them.
sentencepiece_proto: Any = sentencepiece_model_pb2

# Values of the graph's inputs `language` and `textnorm`: SenseVoice's own.
AUTO: Final = 0
NO_SPEECH: Final = 13
WITH_ITN: Final = 14
WITHOUT_ITN: Final = 15


@dataclass(frozen=True)
class Language:
    """How one language writes the ten digits, and how a synthesiser is told to say them.

    `written` are pieces by digit; `spoken` is what espeak-ng reads with `voice`. Index 10, where
    there is one, is a second word for zero.
    """

    code: str
    input_id: int
    voice: str
    written: tuple[str, ...]
    spoken: tuple[str, ...]

    @staticmethod
    def digit_of(word: int) -> int:
        """Digit that the word of this index stands for."""
        return word % 10


_ENGLISH = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_HAN = tuple("零一二三四五六七八九")

LANGUAGES: Final[dict[str, Language]] = {
    language.code: language
    for language in (
        Language(
            "zh",
            3,
            # Hanzi are misread by espeak-ng's `cmn`; toned pinyin is read rightly.
            "cmn-latn-pinyin",
            _HAN,
            ("ling2", "yi1", "er4", "san1", "si4", "wu3", "liu4", "qi1", "ba1", "jiu3"),
        ),
        Language("en", 4, "en-us", tuple("▁" + word for word in _ENGLISH), _ENGLISH),
        Language("yue", 7, "yue", _HAN, _HAN),
        Language(
            "ja",
            11,
            "ja",
            ("ゼロ", *_HAN[1:]),
            ("ゼロ", "いち", "に", "さん", "よん", "ご", "ろく", "なな", "はち", "きゅう"),
        ),
        Language("ko", 12, "ko", tuple("영일이삼사오육칠팔구공"), tuple("영일이삼사오육칠팔구공")),
    )
}

_TAGS = (
    *("zh", "en", "yue", "ja", "ko", "nospeech"),
    *("Speech", "BGM", "Laughter", "Applause", "Cry", "Sneeze", "Breath", "Cough", "Sing"),
    *("Speech_Noise", "GBG", "Event_UNK"),
    *("HAPPY", "SAD", "ANGRY", "NEUTRAL", "FEARFUL", "DISGUSTED", "SURPRISED", "OTHER"),
    *("EMO_UNKNOWN", "withitn", "woitn"),
)


def _pieces() -> tuple[str, ...]:
    written = [piece for language in LANGUAGES.values() for piece in language.written]
    words = dict.fromkeys([*"0123456789", *written])
    return ("<unk>", "<s>", "</s>", *words, *(f"<|{tag}|>" for tag in _TAGS))


PIECES: Final = _pieces()
_IDS: Final = {piece: number for number, piece in enumerate(PIECES)}


def piece_id(piece: str) -> int:
    """Id of a piece or of a tag (`"<|zh|>"`); KeyError if the vocabulary lacks it."""
    return _IDS[piece]


def write_sentencepiece(path: Path) -> None:
    """Write the vocabulary as a sentencepiece model whose ids are those of `PIECES`."""
    model = sentencepiece_proto.ModelProto()
    kinds = sentencepiece_proto.ModelProto.SentencePiece
    for number, piece in enumerate(PIECES):
        entry = model.pieces.add()
        entry.piece = piece
        entry.score = -float(number)
        if piece == "<unk>":
            entry.type = kinds.UNKNOWN
        elif piece in ("<s>", "</s>"):
            entry.type = kinds.CONTROL
        elif piece.startswith("<|"):
            entry.type = kinds.USER_DEFINED
        else:
            entry.type = kinds.NORMAL
    model.trainer_spec.model_type = sentencepiece_proto.TrainerSpec.UNIGRAM
    model.trainer_spec.vocab_size = len(PIECES)
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 0, 1, 2
    model.trainer_spec.pad_id = -1
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    model.normalizer_spec.remove_extra_whitespaces = True
    path.write_bytes(model.SerializeToString(deterministic=True))


def write_tokens(path: Path) -> None:
    """Write the vocabulary as a JSON list, SenseVoice's `tokens.json`."""
    path.write_text(json.dumps(PIECES, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
