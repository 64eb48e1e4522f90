"""The bundled clips: synthesised digit strings in five languages and several formats.

    python -m training.clips --target FOLDER

Writes the clips with `clips.json`, a list of file, language, itn and expected text.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import soundfile
import soxr
from numpy.typing import NDArray

from training.features import SAMPLE_RATE
from training.files import place
from training.synthesis import Delivery, Synthesiser, shared_synthesiser
from training.vocabulary import LANGUAGES

__all__ = ["CLIPS", "Clip", "expected_text", "main", "write_clips"]

Floats = NDArray[np.float32]

_QUIET_SECONDS: Final = 0.25
_HISS: Final = 3e-4
_RIGHT_CHANNEL: Final = 0.8


@dataclass(frozen=True)
class Clip:
    """One clip: what is said, by which voice, and the form of the file."""

    file: str
    language: str
    itn: bool
    digits: str
    voice: str
    delivery: Delivery
    rate: int
    channels: int = 1
    subtype: str = "PCM_16"
    container: str = "WAV"


_CALM: Final = Delivery(rate=140, pitch=45, range=45, gap=3)
_BRISK: Final = Delivery(rate=165, pitch=55, range=55, gap=1)

CLIPS: Final = (
    Clip("en-wideband.wav", "en", False, "314159", "en-us+m7", _CALM, 16000),
    Clip("en-wideband.flac", "en", False, "314159", "en-us+m7", _CALM, 16000, container="FLAC"),
    Clip("en-telephone.wav", "en", True, "7305826", "en-gb-x-rp+f3", _CALM, 8000),
    Clip(
        "zh-stereo.mp3",
        "zh",
        True,
        "20481357",
        "cmn-latn-pinyin+m1",
        _CALM,
        44100,
        2,
        "MPEG_LAYER_III",
        "MP3",
    ),
    Clip(
        "zh-vorbis.ogg",
        "zh",
        False,
        "618249",
        "cmn-latn-pinyin+f1",
        _CALM,
        24000,
        1,
        "VORBIS",
        "OGG",
    ),
    Clip("yue-opus.ogg", "yue", False, "852073", "yue+m2", _CALM, 48000, 1, "OPUS", "OGG"),
    Clip("yue-cd.flac", "yue", True, "4196350", "yue+f1", _CALM, 44100, container="FLAC"),
    Clip("ja-studio.ogg", "ja", False, "907214", "ja+f3", _CALM, 48000, 2, "VORBIS", "OGG"),
    Clip("ja-small.mp3", "ja", True, "3685412", "ja+m4", _CALM, 22050, 1, "MPEG_LAYER_III", "MP3"),
    Clip("ko-opus.ogg", "ko", False, "172846", "ko+m1", _CALM, 16000, 1, "OPUS", "OGG"),
    Clip("ko-narrowband.flac", "ko", True, "9053617", "ko+f5", _CALM, 11025, container="FLAC"),
)


def expected_text(clip: Clip) -> str:
    """The transcript of a clip, as the tokeniser joins the pieces."""
    if clip.itn:
        return clip.digits
    written = LANGUAGES[clip.language].written
    return "".join(written[int(digit)] for digit in clip.digits).replace("▁", " ").strip()


def write_clips(target: Path) -> None:
    """Write every clip and `clips.json`, each appearing whole or not at all."""
    target.mkdir(parents=True, exist_ok=True)
    synthesiser = shared_synthesiser()
    # Synthesised once for each sound: espeak-ng does not say a thing the same way twice, and the
    # recording that comes in two containers must be one recording.
    sounds: dict[tuple[object, ...], Floats] = {}
    rows = []
    for clip in CLIPS:
        sound = (clip.digits, clip.voice, clip.delivery, clip.rate, clip.channels)
        if sound not in sounds:
            sounds[sound] = _samples(synthesiser, clip)
        beside = target / f".{clip.file}.new"
        soundfile.write(str(beside), sounds[sound], clip.rate, clip.subtype, format=clip.container)
        place(beside, target / clip.file)
        rows.append(
            {
                "file": clip.file,
                "language": clip.language,
                "itn": clip.itn,
                "text": expected_text(clip),
            }
        )
    beside = target / ".clips.json.new"
    beside.write_text(json.dumps(rows, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    place(beside, target / "clips.json")


def _samples(synthesiser: Synthesiser, clip: Clip) -> Floats:
    spoken = LANGUAGES[clip.language].spoken
    said = synthesiser.say(
        " ".join(spoken[int(digit)] for digit in clip.digits), clip.voice, clip.delivery
    )
    quiet = np.zeros(int(_QUIET_SECONDS * SAMPLE_RATE), dtype=np.float32)
    samples = np.concatenate([quiet, said * np.float32(0.6), quiet])
    hiss = np.random.default_rng(len(samples)).standard_normal(len(samples))
    samples = soxr.resample(samples + _HISS * hiss, SAMPLE_RATE, clip.rate)
    if clip.channels == 2:
        samples = np.stack([samples, samples * _RIGHT_CHANNEL], axis=1)
    return np.asarray(samples, dtype=np.float32)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the command line."""
    parser = argparse.ArgumentParser(prog="python -m training.clips", description=__doc__)
    parser.add_argument("--target", type=Path, required=True, help="folder to write into")
    write_clips(parser.parse_args(arguments).target)


if __name__ == "__main__":
    main()
