"""The network: SenseVoice's encoder in small, with SenseVoice's own graph contract.

Four learnt query rows (language, event, emotion, text normalisation) go before the features; a
stack of SAN-M blocks (self-attention plus a depthwise convolution over the values, the "memory")
follows; one linear layer gives the logits of tags (rows 0..3) and of CTC (rows 4..).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from training.features import MEL_BINS, STACK
from training.vocabulary import AUTO, BLANK, LANGUAGES, PIECES, piece_id

__all__ = ["QUERIES", "DemoModel", "ExportedModel", "Shape"]

QUERIES = 4
_QUERY_IDS = 16
_EVENT_QUERY, _EMOTION_QUERY = 1, 2
# The network hears what a telephone carries, up to 3.75 kHz, in wide bands: harmonics, which tell
# voices apart and not digits, are smoothed away, and narrow-band recordings look like any other.
_BANDS = 40
_HIGHEST_BIN = 57
# Deviations below the loudest row: fainter is background, and no two rooms share theirs.
_DEPTH, _HEIGHT = 3.5, 3.0
# Added to `nospeech` and to the blank of every text row where nobody says digits.
_SILENCE_BIAS = 50.0


@dataclass(frozen=True)
class Shape:
    """Sizes of the network."""

    width: int = 144
    heads: int = 4
    feed_forward: int = 432
    blocks: int = 6
    kernel: int = 11
    dropout: float = 0.1


class _ChannelDropout(nn.Module):
    """Dropout of whole channels of a clip: a mask a clip is drawn, not one a value.

    Drawing a mask for every value took a fifth of a training step.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, rows: Tensor) -> Tensor:
        if not self.training:
            return rows
        mask = torch.rand(rows.shape[0], 1, rows.shape[2], device=rows.device) >= self.share
        return rows * (mask.to(rows.dtype) / (1.0 - self.share))


class _Block(nn.Module):
    """One pre-norm SAN-M block."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads = shape.heads
        self.before_attention = nn.LayerNorm(shape.width)
        self.query_key_value = nn.Linear(shape.width, 3 * shape.width)
        self.memory = nn.Conv1d(
            shape.width,
            shape.width,
            shape.kernel,
            padding=shape.kernel // 2,
            groups=shape.width,
            bias=False,
        )
        self.output = nn.Linear(shape.width, shape.width)
        self.before_feed_forward = nn.LayerNorm(shape.width)
        self.expand = nn.Linear(shape.width, shape.feed_forward)
        self.contract = nn.Linear(shape.feed_forward, shape.width)
        self.dropout = _ChannelDropout(shape.dropout)

    def forward(self, rows: Tensor, present: Tensor, bias: Tensor) -> Tensor:
        attended = self._attend(self.before_attention(rows), present, bias)
        rows = rows + self.dropout(attended)
        hidden = torch.relu(self.expand(self.before_feed_forward(rows)))
        return cast(Tensor, rows + self.dropout(self.contract(self.dropout(hidden))))

    def _attend(self, rows: Tensor, present: Tensor, bias: Tensor) -> Tensor:
        query, key, value = self.query_key_value(rows).chunk(3, dim=-1)
        value = value * present
        memory = (self.memory(value.transpose(1, 2)).transpose(1, 2) + value) * present
        query, key, split_value = (self._split(part) for part in (query, key, value))
        scores = torch.matmul(query, key.transpose(2, 3)) * (query.shape[-1] ** -0.5) + bias
        mixed = torch.matmul(torch.softmax(scores, dim=-1), split_value)
        return cast(Tensor, self.output(mixed.transpose(1, 2).flatten(2)) + memory)

    def _split(self, rows: Tensor) -> Tensor:
        batch, length, width = rows.shape
        return rows.view(batch, length, self.heads, width // self.heads).transpose(1, 2)


def _band_matrix() -> Tensor:
    """Triangular averages over mel bins, for each stacked frame: shape (560, 7 * bands)."""
    centres = torch.linspace(0.0, _HIGHEST_BIN, _BANDS)
    width = _HIGHEST_BIN / (_BANDS - 1)
    distance = (torch.arange(MEL_BINS)[:, None] - centres[None, :]).abs()
    weights = (1.0 - distance / width).clamp(min=0.0)
    weights[_HIGHEST_BIN + 1 :] = 0.0
    return torch.block_diag(*[weights / weights.sum(dim=0)] * STACK)


class _Bands(nn.Module):
    """Features in wide bands, relative to the clip's loudest row."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("matrix", _band_matrix(), persistent=False)

    def forward(self, speech: Tensor, lengths: Tensor) -> Tensor:
        rows = torch.matmul(speech, self.get_buffer("matrix"))
        outside = torch.arange(rows.shape[1], device=rows.device)[None, :] >= lengths[:, None]
        level = rows.mean(dim=-1) - outside.to(rows.dtype) * 1e4
        loudest = level.amax(dim=1)[:, None, None]
        return torch.clamp(rows - loudest, -_DEPTH, _HEIGHT)


class DemoModel(nn.Module):
    """Encoder with tag rows and CTC rows."""

    def __init__(self, shape: Shape | None = None) -> None:
        super().__init__()
        shape = shape or Shape()
        self.bands = _Bands()
        self.queries = nn.Embedding(_QUERY_IDS, _BANDS * STACK)
        self.inward = nn.Linear(_BANDS * STACK, shape.width)
        self.after_inward = nn.LayerNorm(shape.width)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.blocks))
        self.before_head = nn.LayerNorm(shape.width)
        self.head = nn.Linear(shape.width, len(PIECES))
        self.middle_head = nn.Linear(shape.width, len(PIECES))

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, language: Tensor, textnorm: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (B, T + 4, V), lengths (B,) and, for training, logits after half the blocks.

        `speech` is (B, T, 560), normalised; T may be wider than the longest clip.
        """
        marks = torch.full_like(language, _EVENT_QUERY), torch.full_like(language, _EMOTION_QUERY)
        ids = torch.stack([language, *marks, textnorm], dim=1)
        rows = torch.cat([self.queries(ids), self.bands(speech, speech_lengths)], dim=1)
        lengths = speech_lengths + QUERIES
        inside = torch.arange(rows.shape[1], device=rows.device)[None, :] < lengths[:, None]
        present = inside.unsqueeze(-1).to(rows.dtype)
        bias = (1.0 - present).transpose(1, 2).unsqueeze(1) * -1e4
        rows = self.after_inward(self.inward(rows))
        middle = rows
        for number, block in enumerate(self.blocks):
            rows = block(rows, present, bias)
            if number + 1 == len(self.blocks) // 2:
                middle = rows
        return self.head(self.before_head(rows)), lengths, self.middle_head(middle)


class ExportedModel(nn.Module):
    """What the shipped graph computes: the network, and no text where nobody speaks."""

    def __init__(self, model: DemoModel) -> None:
        super().__init__()
        self.model = model
        spoken = [piece_id(f"<|{code}|>") for code in LANGUAGES]
        self.register_buffer("spoken", torch.tensor(spoken))
        self.nospeech = piece_id("<|nospeech|>")
        self.unknown, self.neutral = piece_id("<|EMO_UNKNOWN|>"), piece_id("<|NEUTRAL|>")
        one_hot = torch.eye(len(PIECES))
        self.register_buffer("blank", one_hot[BLANK])
        self.register_buffer("silence", one_hot[self.nospeech])
        # Inputs that training never gives (nospeech and unassigned ids) mean `auto`.
        known = {AUTO, _EVENT_QUERY, _EMOTION_QUERY, 14, 15}
        known.update(language.input_id for language in LANGUAGES.values())
        with torch.no_grad():
            for number in set(range(_QUERY_IDS)) - known:
                model.queries.weight[number] = model.queries.weight[AUTO]

    def forward(
        self, speech: Tensor, speech_lengths: Tensor, language: Tensor, textnorm: Tensor
    ) -> tuple[Tensor, Tensor]:
        """`ctc_logits` (B, T + 4, V) and `encoder_out_lens` (B,)."""
        logits, lengths, _ = self.model(speech, speech_lengths, language, textnorm)
        speaker = logits[:, 0].index_select(1, self.get_buffer("spoken")).amax(dim=1)
        # Two rows have learnt whether anybody says digits: language and emotion. Both vote.
        language_vote = logits[:, 0, self.nospeech] - speaker
        emotion_vote = logits[:, 1, self.unknown] - logits[:, 1, self.neutral]
        silent = (language_vote + emotion_vote > 0).to(logits.dtype)[:, None, None]
        first = logits[:, :1] + silent * self.get_buffer("silence") * _SILENCE_BIAS
        text = logits[:, QUERIES:] + silent * self.get_buffer("blank") * _SILENCE_BIAS
        return torch.cat([first, logits[:, 1:QUERIES], text], dim=1), lengths
