"""Reads recordings as the worker would hand them to the engine."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

ROOT = Path(__file__).parents[3]
CLIPS = ROOT / "consumer" / "sensestream_consumer" / "clips"
Samples = NDArray[np.int16]


@dataclass(frozen=True)
class BundledClip:
    """A clip that the consumer ships, and what is said in it."""

    path: Path
    language: str
    itn: bool
    text: str


def bundled_clips() -> list[BundledClip]:
    """All of them; at least one."""
    clips = [
        BundledClip(CLIPS / one["file"], one["language"], one["itn"], one["text"])
        for one in json.loads((CLIPS / "clips.json").read_text(encoding="utf-8"))
    ]
    assert clips
    return clips


def read_speech(path: Path) -> Samples:
    """int16 mono at 16 kHz."""
    audio, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = audio.mean(axis=1)
    if rate != 16_000:
        mono = soxr.resample(mono, rate, 16_000)
    samples: Samples = np.clip(np.round(mono * 32768), -32768, 32767).astype(np.int16)
    return samples
