"""Recordings that tests make for themselves: sounds nobody speaks in, all different."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import soundfile as sf
from numpy.typing import NDArray

__all__ = ["damaged", "encoded", "tone", "write_clip"]


def tone(seed: int, seconds: float = 0.5, rate: int = 16_000) -> NDArray[np.int16]:
    """A chirp with a little noise, int16[seconds * rate]; another one for every seed."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * rate)) / rate
    low, high = random.uniform(150, 400), random.uniform(500, 2000)
    wave = np.sin(2 * np.pi * (low + (high - low) * time / seconds) * time)
    return np.asarray(wave * 8000 + random.normal(0, 50, time.size), dtype=np.int16)


def encoded(
    samples: NDArray[np.int16], form: str = "WAV", rate: int = 16_000, **tags: str
) -> bytes:
    """The samples as a file of that form, with tags in its header."""
    buffer = io.BytesIO()
    options: dict[str, Any] = {"format": form, "subtype": "PCM_16"}
    with sf.SoundFile(buffer, "w", rate, 1, **options) as file:
        for name, value in tags.items():
            setattr(file, name, value)
        file.write(samples)
    return buffer.getvalue()


def damaged(clip: bytes) -> bytes:
    """A WAV with the same samples that `stubborn_worker` takes for damaged."""
    return clip + b"DAMAGE" + bytes(2)


def write_clip(folder: Path, seed: int, seconds: float = 0.5, name: str = "") -> str:
    """Write the clip of this seed as WAV; its file:// reference."""
    path = folder / (name or f"clip-{seed}.wav")
    path.write_bytes(encoded(tone(seed, seconds)))
    return path.as_uri()
