"""The tokens of a SenseVoice vocabulary: from ids to text, and which tokens are tags."""

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

BLANK = 0  # CTC's blank, whatever token the vocabulary has there
SPACE = "▁"  # sentencepiece's mark of a word's beginning

_TAG = re.compile(r"<\|(.+)\|>")
_CONTROL = frozenset({"<unk>", "<s>", "</s>", "<pad>", "<blank>", "<blk>", "<sos/eos>"})
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class Vocabulary:
    """Immutable; threads may share it."""

    def __init__(
        self, tokens: Sequence[str], decode: Callable[[list[int]], str] | None = None
    ) -> None:
        self.tokens = tuple(tokens)
        self._decode = decode
        self._tags = {
            number: found[1]
            for number, token in enumerate(self.tokens)
            if (found := _TAG.fullmatch(token))
        }
        self._special = frozenset(
            number
            for number, token in enumerate(self.tokens)
            if number == BLANK or number in self._tags or token in _CONTROL or not token
        )

    def __len__(self) -> int:
        return len(self.tokens)

    def tag(self, number: int) -> str:
        """The name inside a tag: `zh` for `<|zh|>`; empty for a token that is no tag."""
        return self._tags.get(number, "")

    def is_text(self, number: int) -> bool:
        """Whether the token belongs in a text: neither a tag nor a control token nor the blank."""
        return number not in self._special

    def text(self, ids: Sequence[int]) -> str:
        """The text of token ids; tags and control tokens are left out, spaces around it too."""
        kept = [number for number in ids if self.is_text(number)]
        if self._decode is not None:
            return self._decode(kept).strip()
        return _join([self.tokens[number] for number in kept]).strip()


def read_vocabulary(path: Path) -> Vocabulary:
    """A `.bpe.model` (sentencepiece), `.json` (a list) or `.txt` (a token a line) vocabulary.

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
    tokens = [str(processor.IdToPiece(number)) for number in range(processor.GetPieceSize())]
    return Vocabulary(tokens, lambda ids: str(processor.DecodeIds(ids)) if ids else "")


def _read_json(path: Path) -> Vocabulary:
    tokens = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise ValueError("expected a JSON list of tokens")
    return Vocabulary(tokens)


def _read_lines(path: Path) -> Vocabulary:
    """One token a line, or sherpa-onnx's `token id` on every line, ids from 0 upwards."""
    lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    lines = [line.rstrip("\r") for line in lines] if lines != [""] else []
    numbered = [line.rsplit(maxsplit=1) for line in lines]
    if lines and all(fields and fields[-1].isdecimal() for fields in numbered):
        return Vocabulary(_by_number(lines))
    return Vocabulary(lines)


def _by_number(lines: list[str]) -> list[str]:
    tokens: dict[int, str] = {}
    for line in lines:
        # The token may itself be blank space, so only the last separator counts.
        token, number = re.fullmatch(r"(.*?)[ \t]?(\d+)", line, re.DOTALL).groups()  # type: ignore[union-attr]
        tokens[int(number)] = token
    if sorted(tokens) != list(range(len(lines))):
        raise ValueError(f"the ids of its {len(lines)} lines are not 0 to {len(lines) - 1}")
    return [tokens[number] for number in range(len(lines))]


def _join(tokens: list[str]) -> str:
    """Tokens as sentencepiece joins them: `▁` is a space, byte tokens are UTF-8."""
    content = bytearray()
    for token in tokens:
        found = _BYTE.fullmatch(token)
        content += bytes([int(found[1], 16)]) if found else token.replace(SPACE, " ").encode()
    return content.decode("utf-8", errors="replace")
