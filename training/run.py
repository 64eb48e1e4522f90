"""The whole run: corpus, training in stages, export, evaluation, and installation.

    python -m training.run --fsdd FOLDER [--work FOLDER] [--install FOLDER]

Every stage leaves its product in the work folder and is skipped where that is there already, so
a run that was interrupted goes on where it was. Run it from the repository's root.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from training.batches import BatchMaker
from training.clips import write_clips
from training.corpus import Corpus, build_corpus
from training.evaluate import evaluate, write_report
from training.export import export_directory
from training.features import Normalisation
from training.files import copy_into
from training.flite import build_flite_corpus
from training.network import DemoModel
from training.recogniser import Recogniser
from training.recordings import Recording, SpeakerBank, read_recordings
from training.train import Phase, normalisation_of, train

__all__ = ["main"]

SEED: Final = 20250601
# The first of the speakers in alphabetical order; chosen before anything was measured.
LEFT_OUT: Final = "george"


@dataclass(frozen=True)
class _Stage:
    """A phase, the speaker it leaves out, and whether it hears flite's voices."""

    phase: Phase
    left_out: str | None
    with_flite: bool


# flite's voices join late, and for English alone: five languages settle first.
STAGES: Final = (
    _Stage(Phase("opening", 0, 3250, 2e-3, schedule=(0, 4800)), LEFT_OUT, with_flite=False),
    _Stage(
        Phase("without-one-speaker", 3250, 4800, 2e-3, schedule=(0, 4800)),
        LEFT_OUT,
        with_flite=True,
    ),
    _Stage(
        Phase("all-speakers", 4800, 6400, 7e-4, schedule=(4800, 6400), warm_up=50),
        None,
        with_flite=True,
    ),
)
_MEASURED: Final = STAGES[1:]
_GRAPHS: Final = {"int8": "model_quant.onnx", "fp32": "model.onnx"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    options = _parse(arguments)
    # One thread: sums are then in one order, and the loader's process has the other core.
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    recordings = read_recordings(options.fsdd)
    corpus, flite = _corpus(options.work / "corpus"), _flite_corpus(options.work / "flite")
    normalisation = normalisation_of(corpus)
    for stage in STAGES:
        heard = corpus.with_more(flite) if stage.with_flite else corpus
        model = _train(recordings, options.work, heard, normalisation, stage)
        if stage in _MEASURED:
            export_directory(model, normalisation, _exported(options.work, stage))
    for stage in _MEASURED:
        _measure(_exported(options.work, stage), recordings, stage.left_out)
    if options.install is not None:
        _install(_exported(options.work, STAGES[-1]), options.install)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.run", description=__doc__)
    parser.add_argument(
        "--fsdd",
        type=Path,
        default=os.environ.get("FSDD"),
        help="folder of the Free Spoken Digit Dataset's recordings (or FSDD in the environment)",
    )
    parser.add_argument("--work", type=Path, default=Path("training/work"), help="work folder")
    parser.add_argument(
        "--install", type=Path, help="the consumer's package folder, for model and clips"
    )
    options = parser.parse_args(arguments)
    if options.fsdd is None:
        parser.error("no recordings named: give --fsdd FOLDER or set FSDD")
    options.fsdd = Path(options.fsdd)
    return options


def _corpus(folder: Path) -> Corpus:
    if not (folder / "labels.json").exists():
        build_corpus(SEED, digits=2600, speech=800, foreign=160, sounds=600).save(folder)
    return Corpus.load(folder)


def _flite_corpus(folder: Path) -> Corpus:
    if not (folder / "labels.json").exists():
        build_flite_corpus(SEED, digits=1500, speech=500).save(folder)
    return Corpus.load(folder)


def _train(
    recordings: list[Recording],
    work: Path,
    corpus: Corpus,
    normalisation: Normalisation,
    stage: _Stage,
) -> DemoModel:
    bank = SpeakerBank(recordings, stage.left_out)
    maker = BatchMaker(SEED, corpus, bank, normalisation)
    return train(SEED, stage.phase, maker, work, lambda line: print(line, flush=True))


def _exported(work: Path, stage: _Stage) -> Path:
    return work / f"model-{stage.phase.name}"


def _measure(exported: Path, recordings: list[Recording], left_out: str | None) -> None:
    for name, graph in _GRAPHS.items():
        report = evaluate(Recogniser(exported, graph), recordings, left_out)
        write_report(report, exported.with_name(f"{exported.name}-{name}.json"))


def _install(exported: Path, package: Path) -> None:
    target = package / "models" / "demo"
    target.mkdir(parents=True, exist_ok=True)
    for file in sorted(exported.iterdir()):
        copy_into(file, target)
    write_clips(package / "clips")


if __name__ == "__main__":
    main()
