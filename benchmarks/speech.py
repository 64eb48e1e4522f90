"""Makes distinct clips to recognise: synthetic speech where espeak-ng is at hand, else noise.

    python speech.py FOLDER COUNT SECONDS

Run in the benchmark's own environment, which has espeak-ng's library as a wheel.
"""

from __future__ import annotations

import ctypes
import random
import sys
import wave
from pathlib import Path

import espeakng_loader
import numpy as np

RATE = 16_000
_SYNCHRONOUS = 2  # espeak's AUDIO_OUTPUT_SYNCHRONOUS
_UTF8 = 1
_WORDS = (
    "the river carried seven small boats past an old mill while people on the bank talked about "
    "weather bread music trains winter gardens letters from abroad and what the doctor had said"
)
_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


class Speaker:
    """espeak-ng through its C interface; one a process."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        path = str(espeakng_loader.get_data_path()).encode()
        self._rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, path, 0)
        if self._rate <= 0:
            raise RuntimeError("espeak-ng does not start")
        self._chunks: list[np.ndarray] = []
        self._callback = _CALLBACK(self._collect)  # kept: C code holds a pointer to it
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str) -> np.ndarray:
        """int16 at 16 kHz."""
        self._chunks.clear()
        content = text.encode()
        self._library.espeak_Synth(content, len(content) + 1, 0, 1, 0, _UTF8, None, None)
        self._library.espeak_Synchronize()
        audio = np.concatenate(self._chunks).astype(np.float64)
        places = np.arange(0, audio.size - 1, self._rate / RATE)
        return np.interp(places, np.arange(audio.size), audio).astype(np.int16)

    def _collect(self, samples: object, count: int, _: object) -> int:
        if samples and count > 0:
            self._chunks.append(np.ctypeslib.as_array(samples, (count,)).copy())
        return 0


def main(folder: Path, count: int, seconds: float) -> None:
    speaker = Speaker()
    for number in range(count):
        words = random.Random(number)
        text = " ".join(words.choice(_WORDS.split()) for _ in range(round(seconds * 5)))
        samples = speaker.say(text)[: round(seconds * RATE)]
        with wave.open(str(folder / f"clip-{number:02}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
