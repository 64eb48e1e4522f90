"""English digits from festival's voice `ked`, built from recordings of a man whom flite lacks."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.corpus import DIGITS, Corpus, Label, draw_count, join
from training.features import SAMPLE_RATE, log_mel
from training.flite import FLITE
from training.vocabulary import LANGUAGES

__all__ = ["build_festival_corpus"]

_OPENING: Final = """(voice_ked_diphone)
(define (say text stretch pitch file)
  (Parameter.set 'Duration_Stretch stretch)
  (set! int_lr_params (list (list 'target_f0_mean pitch) '(target_f0_std 14)
    '(model_f0_mean 170) '(model_f0_std 34)))
  (utt.save.wave (utt.synth (eval (list 'Utterance 'Text text))) file 'riff))
"""


def build_festival_corpus(seed: int, digits: int) -> Corpus:
    """So many digit strings, labelled as flite's; RuntimeError where festival is missing."""
    if shutil.which("festival") is None:
        raise RuntimeError(
            "no festival on PATH: install it and its voice "
            "(Debian: apt-get install festival festvox-kdlpc16k)"
        )
    labels, lines = [], [_OPENING]
    for number in range(digits):
        rng = np.random.default_rng((seed, 20, number))
        words = tuple(int(word) for word in rng.integers(0, 10, draw_count(rng)))
        labels.append(Label(DIGITS, FLITE, words))
        separator = str(rng.choice([" ", " ", ", "]))
        text = separator.join(LANGUAGES["en"].spoken[word] for word in words)
        stretch, pitch = rng.uniform(0.75, 1.4), rng.uniform(80.0, 150.0)
        lines.append(f'(say "{text}" {stretch:.3f} {pitch:.1f} "{number}.wav")\n')
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "say.scm"
        script.write_text("".join(lines), encoding="utf-8")
        subprocess.run(["festival", "-b", script.name], cwd=folder, check=True)
        said = [_frames(Path(folder) / f"{number}.wav") for number in range(digits)]
    return join(list(zip(labels, said, strict=True)))


def _frames(file: Path) -> NDArray[np.float16]:
    samples, rate = soundfile.read(str(file), dtype="float32")
    resampled = np.asarray(soxr.resample(samples, rate, SAMPLE_RATE), dtype=np.float32)
    return log_mel(resampled).astype(np.float16)
