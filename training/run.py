"""The whole run: corpus, training in stages, export, evaluation, and installation.

    python -m training.run --fsdd FOLDER [--work FOLDER] [--install FOLDER | --left-out SPEAKER]

Every stage leaves its product in the work folder and is skipped where that is there already, so
a run that was interrupted goes on where it was. Run it from the repository's root.

With --left-out, phase one alone is trained, without the speaker named and in a folder of its own
beside the same corpus. Its figures tell how that speaker fares; the shipped model is not touched.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
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
    if options.left_out is not None:
        _check_speaker(options.left_out, recordings)
    material = _gather(options.work, recordings + read_prompts(options.prompts))
    if options.left_out is None:
        _ship(material, options.work, options.install)
    else:
        _leave_out(material, options.work, options.left_out)


def _ship(material: _Material, work: Path, package: Path | None) -> None:
    """Every stage, both models, their figures, and the shipped one in its place."""
    models = [_train(material, work, stage) for stage in STAGES]
    left_out, shipped = work / "model-left-out", work / "model-shipped"
    export_directory(models[_LEFT_OUT_ENDS], material.normalisation, left_out)
    export_directory(mean_of(models[-2:]), material.normalisation, shipped)
    _measure(left_out, material.recordings, LEFT_OUT)
    _measure(shipped, material.recordings, None)
    if package is not None:
        _install(shipped, package)


def _leave_out(material: _Material, work: Path, speaker: str) -> None:
    """Phase one without this speaker, and its figures."""
    # Checkpoints go by the phase's name: in a folder shared with another speaker's, a run would
    # take that one's weights for its own.
    own = work / f"left-out-{speaker}"
    own.mkdir(exist_ok=True)
    model = _train(material, own, replace(STAGES[_LEFT_OUT_ENDS], left_out=speaker))
    export_directory(model, material.normalisation, own / "model")
    _measure(own / "model", material.recordings, speaker)


def _check_speaker(speaker: str, recordings: list[Recording]) -> None:
    # A name that nobody bears would leave nobody out.
    known = sorted({item.speaker for item in recordings})
    if speaker not in known:
        raise ValueError(f"no recordings of {speaker!r} to leave out: name one of {known}")


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
    ends = parser.add_mutually_exclusive_group()
    ends.add_argument(
        "--install", type=Path, help="the consumer's package folder, for model and clips"
    )
    ends.add_argument("--left-out", metavar="SPEAKER", help="only phase one, without this speaker")
    options = parser.parse_args(arguments)
    if options.fsdd is None:
        parser.error("no recordings named: give --fsdd FOLDER or set FSDD")
    options.fsdd = Path(options.fsdd)
    return options


def _gather(work: Path, recordings: list[Recording]) -> _Material:
    corpus = _corpus(work / "corpus")
    flite = _flite_corpus(work / "flite")
    festival = _festival_corpus(work / "festival")
    voices = _voices(work / "voices", recordings)
    heard = corpus.with_more(flite).with_more(festival)
    return _Material(recordings, voices, heard, normalisation_of(corpus))


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
