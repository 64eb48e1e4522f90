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
from training.festival import build_festival_corpus
from training.files import copy_into
from training.flite import build_flite_corpus
from training.network import DemoModel
from training.recogniser import Recogniser
from training.recordings import (
    PROMPTS,
    Recording,
    SpeakerBank,
    build_voices,
    read_prompts,
    read_recordings,
)
from training.train import Phase, mean_of, normalisation_of, train

__all__ = ["main"]

SEED: Final = 20250601
# The first of the speakers in alphabetical order; chosen before anything was measured.
LEFT_OUT: Final = "george"


@dataclass(frozen=True)
class _Stage:
    """A phase and the speaker it leaves out."""

    phase: Phase
    left_out: str | None


@dataclass(frozen=True)
class _Material:
    """What every stage draws from; `voices` are the recordings in other voices."""

    recordings: list[Recording]
    voices: Corpus
    corpus: Corpus
    normalisation: Normalisation


STAGES: Final = (
    _Stage(Phase("without-one-speaker", 0, 7500, 2e-3), LEFT_OUT),
    _Stage(Phase("all-speakers", 7500, 8250, 1e-3, warm_up=50), None),
    _Stage(Phase("all-speakers-again", 8250, 9250, 1e-3, warm_up=50), None),
)
# The last stage that leaves a speaker out. The shipped weights are the mean of the two after it.
_LEFT_OUT_ENDS: Final = 0
_GRAPHS: Final = {"int8": "model_quant.onnx", "fp32": "model.onnx"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    options = _parse(arguments)
    # One thread: sums are then in one order, and the loader's process has the other core.
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    recordings = read_recordings(options.fsdd)
    recordings += read_prompts(options.prompts)
    corpus = _corpus(options.work / "corpus")
    flite = _flite_corpus(options.work / "flite")
    festival = _festival_corpus(options.work / "festival")
    voices = _voices(options.work / "voices", recordings)
    normalisation = normalisation_of(corpus)
    heard = corpus.with_more(flite).with_more(festival)
    material = _Material(recordings, voices, heard, normalisation)
    models = [_train(material, options.work, stage) for stage in STAGES]
    left_out, shipped = options.work / "model-left-out", options.work / "model-shipped"
    export_directory(models[_LEFT_OUT_ENDS], normalisation, left_out)
    export_directory(mean_of(models[-2:]), normalisation, shipped)
    _measure(left_out, recordings, LEFT_OUT)
    _measure(shipped, recordings, None)
    if options.install is not None:
        _install(shipped, options.install)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m training.run", description=__doc__)
    parser.add_argument(
        "--fsdd",
        type=Path,
        default=os.environ.get("FSDD"),
        help="folder of the Free Spoken Digit Dataset's recordings (or FSDD in the environment)",
    )
    parser.add_argument("--work", type=Path, default=Path("training/work"), help="work folder")
    parser.add_argument("--prompts", type=Path, default=PROMPTS, help="Asterisk's spoken digits")
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
        build_corpus(SEED, digits=2600, speech=800, foreign=160, sounds=600, accented=3000).save(
            folder
        )
    return Corpus.load(folder)


def _flite_corpus(folder: Path) -> Corpus:
    if not (folder / "labels.json").exists():
        build_flite_corpus(SEED, digits=1200, speech=300).save(folder)
    return Corpus.load(folder)


def _festival_corpus(folder: Path) -> Corpus:
    if not (folder / "labels.json").exists():
        build_festival_corpus(SEED, digits=300).save(folder)
    return Corpus.load(folder)


def _voices(folder: Path, recordings: list[Recording]) -> Corpus:
    if not (folder / "labels.json").exists():
        build_voices(recordings).save(folder)
    return Corpus.load(folder)


def _train(material: _Material, work: Path, stage: _Stage) -> DemoModel:
    def prepare() -> BatchMaker:
        bank = SpeakerBank(material.recordings, stage.left_out, material.voices)
        return BatchMaker(SEED, material.corpus, bank, material.normalisation)

    return train(SEED, stage.phase, prepare, work, lambda line: print(line, flush=True))


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
