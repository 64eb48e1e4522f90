"""Training: phase one without one real speaker, phase two on all of them."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from training.batches import Batch, BatchMaker
from training.corpus import Corpus
from training.features import Normalisation
from training.network import QUERIES, DemoModel
from training.vocabulary import BLANK

__all__ = ["Phase", "mean_of", "normalisation_of", "train"]

_MIDDLE_WEIGHT: Final = 0.3
_TAG_WEIGHT: Final = 0.5
_EMA: Final = 0.998
_CLIP: Final = 5.0
_FAINT: Final = 2.0
_SAVE_EVERY: Final = 250
_LOG_EVERY: Final = 50


@dataclass(frozen=True)
class Phase:
    """Steps `first` to `last`; the learning rate warms up to `rate` and falls as a cosine does."""

    name: str
    first: int
    last: int
    rate: float
    warm_up: int = 200

    def rate_at(self, step: int) -> float:
        """Learning rate of a step."""
        rising = (step - self.first + 1) / self.warm_up
        done = (step - self.first) / (self.last - self.first)
        falling = 0.5 + 0.5 * math.cos(math.pi * done)
        return self.rate * max(0.01, min(1.0, rising) * falling)


def normalisation_of(corpus: Corpus) -> Normalisation:
    """CMVN statistics of every fifth frame of the synthetic corpus.

    Energies are floored first: the digital silence between synthetic words, which no microphone
    gives, would otherwise double the deviations.
    """
    return Normalisation.of(np.maximum(corpus.frames[::5].astype(np.float32), _FAINT))


def mean_of(models: Sequence[DemoModel]) -> DemoModel:
    """The model whose weights are the means of those of models from one run."""
    states = [model.state_dict() for model in models]
    mean = copy.deepcopy(models[-1])
    mean.load_state_dict(
        {name: torch.stack([state[name] for state in states]).mean(dim=0) for name in states[0]}
    )
    return mean


class _Stream(IterableDataset[Batch]):
    """Batches for a loader process, so that drawing and learning overlap."""

    def __init__(self, maker: BatchMaker, first: int, last: int) -> None:
        super().__init__()
        self._maker, self._first, self._last = maker, first, last

    def __iter__(self) -> Iterator[Batch]:
        torch.set_num_threads(1)
        return self._maker.batches(self._first, self._last)


class _State:
    """Model, its running average and the optimiser, kept in a checkpoint file."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = DemoModel()
        self.average = copy.deepcopy(self.model)
        decayed = [p for p in self.model.parameters() if p.ndim > 1]
        others = [p for p in self.model.parameters() if p.ndim <= 1]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
            lr=1e-3,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.step = 0

    def load(self, path: Path) -> None:
        kept = torch.load(path, weights_only=True)
        self.model.load_state_dict(kept["model"])
        self.average.load_state_dict(kept["average"])
        self.optimiser.load_state_dict(kept["optimiser"])
        self.step = int(kept["step"])

    def save(self, path: Path) -> None:
        beside = path.with_suffix(".new")
        kept: dict[str, Any] = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        torch.save(kept, beside)
        beside.replace(path)


def train(
    seed: int,
    phase: Phase,
    prepare: Callable[[], BatchMaker],
    folder: Path,
    report: Callable[[str], None] = print,
) -> DemoModel:
    """Train through one phase, resuming at the folder's checkpoint; the averaged model.

    `prepare` is called unless the phase is finished already: it takes a minute.
    """
    state = _State(seed)
    finished, running = folder / f"{phase.name}.pt", folder / "running.pt"
    for path in (finished, running):
        if path.exists():
            state.load(path)
            break
    if state.step < phase.last:
        _run_phase(seed, phase, prepare(), state, running, report)
        # The next phase goes on from `running`; a finished phase is not trained again.
        state.save(running)
        state.save(finished)
    return state.average.eval()


def _run_phase(
    seed: int,
    phase: Phase,
    maker: BatchMaker,
    state: _State,
    running: Path,
    report: Callable[[str], None],
) -> None:
    state.model.train()
    loader = DataLoader(
        _Stream(maker, state.step, phase.last),
        batch_size=None,
        num_workers=1,
        prefetch_factor=8,
        multiprocessing_context="fork",
    )
    recent: list[float] = []
    for batch in loader:
        if state.step >= phase.last:
            break
        # A seed a step: dropout is then the same in a run that was interrupted.
        torch.manual_seed(seed * 1_000_003 + state.step)
        recent.append(_learn(state, batch, phase.rate_at(state.step)))
        state.step += 1
        if state.step % _LOG_EVERY == 0:
            report(f"{phase.name} step {state.step} loss {np.mean(recent):.4f}")
            recent = []
        if state.step % _SAVE_EVERY == 0:
            state.save(running)


def _learn(state: _State, batch: Batch, rate: float) -> float:
    for group in state.optimiser.param_groups:
        group["lr"] = rate
    loss = _loss(state.model, batch)
    state.optimiser.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(state.model.parameters(), _CLIP)
    state.optimiser.step()
    # The average starts late: the first weights are not worth remembering.
    keep = min(_EMA, state.step / (state.step + 20.0))
    with torch.no_grad():
        for mean, value in zip(state.average.parameters(), state.model.parameters(), strict=True):
            mean.lerp_(value, 1.0 - keep)
    return float(loss.detach())


def _loss(model: DemoModel, batch: Batch) -> Tensor:
    logits, lengths, middle = model(batch.speech, batch.lengths, batch.language, batch.textnorm)
    tags = nn.functional.cross_entropy(logits[:, :QUERIES].flatten(0, 1), batch.tags.flatten())
    final, halfway = (_ctc(part, lengths, batch) for part in (logits, middle))
    return final + _MIDDLE_WEIGHT * halfway + _TAG_WEIGHT * tags


def _ctc(logits: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    rows = logits[:, QUERIES:].log_softmax(dim=-1).transpose(0, 1)
    losses: Tensor = nn.functional.ctc_loss(
        rows,
        batch.tokens,
        lengths - QUERIES,
        batch.token_counts,
        blank=BLANK,
        reduction="none",
        zero_infinity=True,
    )
    return losses.sum() / batch.token_counts.sum().clamp(min=1)
