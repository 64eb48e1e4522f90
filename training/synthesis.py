"""Speech from espeak-ng, called in-process: a few milliseconds an utterance."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import espeakng_loader  # type: ignore[import-untyped]
import numpy as np
import soxr
from numpy.typing import NDArray

from training.features import SAMPLE_RATE

__all__ = ["Delivery", "Synthesiser", "shared_synthesiser"]

Floats = NDArray[np.float32]

# Samples by callback, within the call: the threaded mode deadlocks when started twice.
_SYNCHRONOUS: Final = 2
_UTF8: Final = 1
_RANDOM_SEED: Final = 1
_RATE, _VOLUME, _PITCH, _RANGE, _WORD_GAP = 1, 2, 3, 4, 7

_Callback = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
)


@dataclass(frozen=True)
class Delivery:
    """How something is said: words a minute, pitch and its range (0 to 100), gap in 10 ms."""

    rate: int = 160
    pitch: int = 50
    range: int = 50
    gap: int = 0


class Synthesiser:
    """espeak-ng, one voice at a time; take the process's one from `shared_synthesiser`."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(espeakng_loader.get_library_path())
        data = espeakng_loader.get_data_path().encode()
        self._own_rate = self._library.espeak_Initialize(_SYNCHRONOUS, 0, data, 0)
        if self._own_rate <= 0:
            raise RuntimeError(
                f"espeak-ng did not start with its data at {data.decode()}: "
                "reinstall espeakng-loader"
            )
        self._chunks: list[NDArray[np.int16]] = []
        self._c_library = ctypes.CDLL(None)
        # Kept on the instance: ctypes frees a callback that nothing refers to.
        self._callback = _Callback(self._collect)
        self._library.espeak_SetSynthCallback(self._callback)

    def say(self, text: str, voice: str, delivery: Delivery) -> Floats:
        """Samples in ±1 at 16 kHz; ValueError if espeak-ng has no such voice."""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise ValueError(f"espeak-ng has no voice {voice!r}: see `espeak-ng --voices`")
        settings = {
            _RATE: delivery.rate,
            _VOLUME: 70,
            _PITCH: delivery.pitch,
            _RANGE: delivery.range,
            _WORD_GAP: delivery.gap,
        }
        for parameter, value in settings.items():
            self._library.espeak_SetParameter(parameter, value, 0)
        # Breath and hiss are drawn by two generators that espeak-ng seeds with the clock.
        self._library.espeak_ng_SetRandSeed(ctypes.c_long(_RANDOM_SEED))
        self._c_library.srand(_RANDOM_SEED)
        self._chunks = []
        encoded = text.encode()
        self._library.espeak_Synth(encoded, len(encoded) + 1, 0, 1, 0, _UTF8, None, None)
        if not self._chunks:
            return np.zeros(0, dtype=np.float32)
        samples = np.concatenate(self._chunks).astype(np.float32) / 32768.0
        return np.asarray(soxr.resample(samples, self._own_rate, SAMPLE_RATE), dtype=np.float32)

    def _collect(self, samples: ctypes._Pointer[ctypes.c_short], count: int, _: object) -> int:
        if count > 0:  # the last call brings none
            self._chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        return 0


@lru_cache(maxsize=1)
def shared_synthesiser() -> Synthesiser:
    """The synthesiser of this process: the library keeps its state globally."""
    return Synthesiser()
