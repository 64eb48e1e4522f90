"""The pieces of a SenseVoice vocabulary: from ids to text, and which pieces are tags."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import sentencepiece
from sensestream_common.contract.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["BLANK", "SPACE", "Vocabulary", "read_vocabulary"]

BLANK = 0  # CTC's blank, whatever piece the vocabulary has there
SPACE = "▁"  # sentencepiece's mark of a word's beginning

_TAG = re.compile(r"<\|(.+)\|>")
_CONTROL = frozenset({"<unk>", "<s>", "</s>", "<pad>", "<blank>", "<blk>", "<sos/eos>"})
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """Immutable; threads may share it."""

    def __init__(
        self, pieces: Sequence[str], decode: Callable[[list[int]], str] | None = None
    ) -> None:
        self.pieces = tuple(pieces)
        self._decode = decode
        self._tags = {
            number: found[1]
            for number, piece in enumerate(self.pieces)
            if (found := _TAG.fullmatch(piece))
        }
        self._special = frozenset(
            number
            for number, piece in enumerate(self.pieces)
            if number == BLANK or number in self._tags or piece in _CONTROL or not piece
        )

    def __len__(self) -> int:
        return len(self.pieces)

    def tag(self, number: int) -> str:
        """The name inside a tag: `zh` for `<|zh|>`; empty for a piece that is no tag."""
        return self._tags.get(number, "")

    def is_text(self, number: int) -> bool:
        """Whether the piece belongs in a text: neither a tag nor a control piece nor the blank."""
        return number not in self._special

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids; tags and control pieces are left out, spaces around it too."""
        kept = [number for number in ids if self.is_text(number)]
        if self._decode is not None:
            return self._decode(kept).strip()
        return _join([self.pieces[number] for number in kept]).strip()


def read_vocabulary(path: Path) -> Vocabulary:
    """A `.bpe.model` (sentencepiece), `.json` (a list) or `.txt` (a piece a line) vocabulary.

    Raises `ModelError` for a file that is none of these.
    """
    readers = {".model": _read_sentencepiece, ".json": _read_json, ".txt": _read_lines}
    try:
        vocabulary = readers[path.suffix](path)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"{path} cannot be read as a vocabulary: {error}") from error
    if len(vocabulary) == 0:
        raise ModelError(f"{path} is an empty vocabulary")
    return vocabulary


def _read_sentencepiece(path: Path) -> Vocabulary:
    content = path.read_bytes()
    if not content:
        raise ValueError("the file is empty")
    # By bytes: sentencepiece takes a path's name apart otherwise, and aborts on some files.
    processor: Any = sentencepiece.SentencePieceProcessor()
    processor.LoadFromSerializedProto(content)
    pieces = [str(processor.IdToPiece(number)) for number in range(processor.GetPieceSize())]
    return Vocabulary(pieces, lambda ids: str(processor.DecodeIds(ids)) if ids else "")


def _read_json(path: Path) -> Vocabulary:
    pieces = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise ValueError("expected a JSON list of pieces")
    return Vocabulary(pieces)


def _read_lines(path: Path) -> Vocabulary:
    """One piece a line, or sherpa-onnx's `piece id` on every line, ids from 0 upwards."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    lines = [line.rstrip("\r") for line in lines] if lines != [""] else []
    numbered = [line.rsplit(maxsplit=1) for line in lines]
    if lines and all(fields and fields[-1].isdecimal() for fields in numbered):
        return Vocabulary(_by_number(lines))
    return Vocabulary(lines)


def _by_number(lines: list[str]) -> list[str]:
    pieces: dict[int, str] = {}
    for line in lines:
        # The piece may itself be blank space, so only the last separator counts.
        piece, number = re.fullmatch(r"(.*?)[ \t]?(\d+)", line, re.DOTALL).groups()  # type: ignore[union-attr]
        pieces[int(number)] = piece
    if sorted(pieces) != list(range(len(lines))):
        raise ValueError(f"the ids of its {len(lines)} lines are not 0 to {len(lines) - 1}")
    return [pieces[number] for number in range(len(lines))]


def _join(pieces: list[str]) -> str:
    """Pieces as sentencepiece joins them: `▁` is a space, byte pieces are UTF-8."""
    content = bytearray()
    for piece in pieces:
        found = _BYTE.fullmatch(piece)
        content += bytes([int(found[1], 16)]) if found else piece.replace(SPACE, " ").encode()
    return content.decode("utf-8", errors="replace")
