"""Measuring an exported model; prints the table that the model card quotes.

    python -m training.evaluate --model FOLDER --fsdd FOLDER [--json FILE] [--graph FILE]

Token error rate is the edit distance between emitted and spoken tokens over the spoken ones. All
clips are drawn from fixed seeds, from voices, takes and sentences that training never used.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.corpus import HELD_OUT_VARIANTS, digits_spoken
from training.features import SAMPLE_RATE
from training.recogniser import Recogniser
from training.recordings import Recording, read_recordings, splice
from training.sentences import HELD_OUT_SENTENCES
from training.sounds import coloured_noise, tones
from training.synthesis import Delivery, shared_synthesiser
from training.vocabulary import LANGUAGES, piece_id

__all__ = ["Report", "edit_distance", "evaluate", "main", "write_report"]

Floats = NDArray[np.float32]
Report = dict[str, float | int]

_SEED: Final = 99
_STRINGS: Final = 120
_LONGEST_STRING: Final = 8
_CONNECTED: Final = 100
_SOUNDS: Final = 150
_SENTENCE_VARIANTS: Final = 3
_COMPANY: Final = 8
_NOISE_DECIBELS: Final = (20, 10)


@dataclass(frozen=True)
class _Spoken:
    """A clip and what was said in it, as indices into the language's words."""

    language: str
    words: tuple[int, ...]
    samples: Floats


def edit_distance(one: Sequence[int], other: Sequence[int]) -> int:
    """Fewest insertions, deletions and substitutions that turn one into the other."""
    row = list(range(len(other) + 1))
    for number, left in enumerate(one, start=1):
        diagonal, row[0] = row[0], number
        for place, right in enumerate(other, start=1):
            cost = min(row[place] + 1, row[place - 1] + 1, diagonal + (left != right))
            diagonal, row[place] = row[place], cost
    return row[-1]


def evaluate(model: Recogniser, recordings: list[Recording], unseen: str | None) -> Report:
    """All figures of a model; `unseen` is the speaker that training left out, if any."""
    report: Report = {}
    synthetic = _synthetic_strings()
    for code in LANGUAGES:
        clips = [clip for clip in synthetic if clip.language == code]
        report.update(_rates(model, clips, f"synthetic held-out voices, {code}"))
    noisy = np.random.default_rng([_SEED, 5])
    for decibels in _NOISE_DECIBELS:
        clips = [_with_noise(noisy, clip, decibels) for clip in synthetic[::3]]
        report[f"the same with white noise at {decibels} dB, language given, without ITN"] = (
            _error_rate(model, clips, given=True, itn=False)
        )
    report["language identified, all lengths"] = _identified(model, synthetic)
    longer = [clip for clip in synthetic if len(clip.words) > 2]
    report["language identified, three digits and more"] = _identified(model, longer)
    report["clips answered otherwise in a batch of eight"] = _changed_by_company(model, synthetic)
    report.update(_recorded(model, recordings, unseen))
    report.update(_silent(model))
    return report


def _rates(model: Recogniser, clips: list[_Spoken], name: str) -> Report:
    return {
        f"{name}, {hint}, {form}": _error_rate(model, clips, given=given, itn=itn)
        for given, hint in ((True, "language given"), (False, "auto"))
        for itn, form in ((False, "without ITN"), (True, "with ITN"))
    }


def _error_rate(model: Recogniser, clips: Iterable[_Spoken], *, given: bool, itn: bool) -> float:
    errors = tokens = 0
    for clip in clips:
        language = LANGUAGES[clip.language]
        spoken = [
            piece_id(str(language.digit_of(word)) if itn else language.written[word])
            for word in clip.words
        ]
        heard = model.hear(clip.samples, clip.language if given else "auto", itn)
        errors += edit_distance(spoken, heard.ids)
        tokens += len(spoken)
    return errors / tokens


def _identified(model: Recogniser, clips: Sequence[_Spoken]) -> float:
    right = [model.hear(clip.samples).tags[0] == f"<|{clip.language}|>" for clip in clips]
    return sum(right) / len(right)


def _changed_by_company(model: Recogniser, clips: Sequence[_Spoken]) -> int:
    changed = 0
    for start in range(0, len(clips), _COMPANY):
        group = [clip.samples for clip in clips[start : start + _COMPANY]]
        together = model.hear_together(group)
        alone = [model.hear(samples) for samples in group]
        changed += sum(
            one.ids != other.ids or one.tags != other.tags
            for one, other in zip(alone, together, strict=True)
        )
    return changed


def _synthetic_strings() -> list[_Spoken]:
    synthesiser = shared_synthesiser()
    clips = []
    for place, code in enumerate(LANGUAGES):
        for number in range(_STRINGS):
            rng = np.random.default_rng([_SEED, 1, place, number])
            variant = HELD_OUT_VARIANTS[number % len(HELD_OUT_VARIANTS)]
            count = int(rng.integers(1, _LONGEST_STRING + 1))
            clips.append(_Spoken(code, *digits_spoken(rng, synthesiser, code, variant, count)))
    return clips


def _with_noise(rng: np.random.Generator, clip: _Spoken, decibels: float) -> _Spoken:
    level = float(np.sqrt(np.mean(clip.samples**2))) * 10.0 ** (-decibels / 20.0)
    noise = (level * rng.standard_normal(len(clip.samples))).astype(np.float32)
    return _Spoken(clip.language, clip.words, clip.samples + noise)


def _recorded(model: Recogniser, recordings: list[Recording], unseen: str | None) -> Report:
    report: Report = {}
    seen = [item for item in recordings if item.held_out and item.speaker != unseen]
    groups = {"real speakers, held-out takes": seen}
    if unseen is not None:
        groups[f"real speaker left out ({unseen}), all takes"] = [
            item for item in recordings if item.speaker == unseen
        ]
    for name, takes in groups.items():
        alone = [_Spoken("en", (take.digit,), take.at_16k()) for take in takes]
        report.update(_rates(model, alone, f"{name}, isolated"))
        report.update(_rates(model, _connected(takes), f"{name}, connected"))
    return report


def _connected(takes: list[Recording]) -> list[_Spoken]:
    speakers = sorted({take.speaker for take in takes})
    clips = []
    for number in range(_CONNECTED):
        rng = np.random.default_rng([_SEED, 2, number])
        own = [take for take in takes if take.speaker == speakers[number % len(speakers)]]
        picked = [own[int(place)] for place in rng.integers(0, len(own), rng.integers(2, 8))]
        words = tuple(take.digit for take in picked)
        clips.append(_Spoken("en", words, splice(rng, picked)))
    return clips


def _silent(model: Recogniser) -> Report:
    """How often something without digits gives text."""
    sentences = _sentences()
    report: Report = {"sentences outside the domain, clips": len(sentences)}
    report["sentences outside the domain, text, auto"] = _share_with_text(
        model, ((samples, "auto") for _, samples in sentences)
    )
    report["sentences outside the domain, text, language given"] = _share_with_text(
        model, ((samples, code if code in LANGUAGES else "en") for code, samples in sentences)
    )
    for place, (name, make) in enumerate((("noise", coloured_noise), ("tones", tones))):
        clips = []
        for number in range(_SOUNDS):
            rng = np.random.default_rng([_SEED, 3, place, number])
            clips.append((make(rng, float(rng.uniform(0.3, 8.0))), "auto"))
        report[f"{name}, text, auto"] = _share_with_text(model, clips)
    lengths = [SAMPLE_RATE // 10 * number for number in range(1, 100, 3)]
    report["digital silence, text, auto"] = _share_with_text(
        model, ((np.zeros(length, dtype=np.float32), "auto") for length in lengths)
    )
    return report


def _share_with_text(model: Recogniser, clips: Iterable[tuple[Floats, str]]) -> float:
    texts = [bool(model.hear(samples, hint).text) for samples, hint in clips]
    return sum(texts) / len(texts)


def _sentences() -> list[tuple[str, Floats]]:
    codes = {language.voice: language.code for language in LANGUAGES.values()}
    synthesiser = shared_synthesiser()
    clips = []
    for place, (voice, sentences) in enumerate(HELD_OUT_SENTENCES.items()):
        for number, sentence in enumerate(sentences):
            rng = np.random.default_rng([_SEED, 4, place, number])
            for variant in rng.permutation(list(HELD_OUT_VARIANTS))[:_SENTENCE_VARIANTS]:
                delivery = Delivery(int(rng.integers(120, 200)), int(rng.integers(25, 80)))
                samples = synthesiser.say(sentence, f"{voice}+{variant}", delivery)
                clips.append((codes.get(voice, voice), samples))
    return clips


def write_report(report: Report, path: Path | None) -> None:
    """Print the figures as rows of a table and, given a path, write them as JSON."""
    for name, value in report.items():
        print(f"| {name} | {value if isinstance(value, int) else f'{value:.2%}'} |")
    if path is not None:
        path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _listen(model: Recogniser, path: Path) -> str:
    samples, rate = soundfile.read(str(path), dtype="float32", always_2d=True)
    mono = np.asarray(soxr.resample(samples.mean(axis=1), rate, SAMPLE_RATE), dtype=np.float32)
    answer = model.hear(mono)
    return f"{path.name}: {answer.text!r} {' '.join(answer.tags)}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="model directory")
    parser.add_argument("--graph", default="model_quant.onnx", help="file name of the graph")
    parser.add_argument("--fsdd", type=Path, default=os.environ.get("FSDD"))
    parser.add_argument("--unseen", help="the speaker whom training left out")
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--listen", type=Path, nargs="*", default=[], help="files to print")
    options = parser.parse_args(arguments)
    if options.fsdd is None:
        parser.error("no recordings named: give --fsdd FOLDER or set FSDD")
    model = Recogniser(options.model, options.graph)
    for path in options.listen:
        print(_listen(model, path))
    report = evaluate(model, read_recordings(options.fsdd), options.unseen)
    write_report(report, options.json)


if __name__ == "__main__":
    main()
