"""A real worker process whose recogniser can be made to wait, or to take the process down.

Run as a program: `python stubborn_worker.py` with the worker's own settings in the environment and

    STUBBORN_GATE      a file: while it exists, every recognition waits (one of that name that ends
                       in .reached says that one does)
    STUBBORN_POISON    SHA-256 identities of samples that end the process with SIGKILL
    STUBBORN_LIVES     how many workers follow one another, each when the one before has ended
    STUBBORN_FAULT     a number and a text: so many runs of the graph fail with this message
    STUBBORN_REVISION  the decode revision, with decoders that know damaged recordings (`damaged`
                       in tests.support.clips): they give a warning; those of revision `old` lose
                       the second half of them and do not say so

Everything else is the worker that users run; only what a slow model, a crash in native code, a full
device or an older decoder would do is played, because none of them can be had at will.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sensestream_common.contract.alias import AudioWarning
from sensestream_common.contract.transcript import Transcript
from sensestream_common.logs import configure_logs
from sensestream_common.settings import load_settings
from sensestream_consumer import components
from sensestream_consumer.audio import (
    AudioPolicy,
    Decoded,
    Fetched,
    audio_identity,
    decode_with_warnings,
)
from sensestream_consumer.cli import run_until_stopped
from sensestream_consumer.engine import Recogniser, resolve_model
from sensestream_consumer.processing import transcribing
from sensestream_consumer.settings import WorkerSettings

_DAMAGE = b"DAMAGE"  # as tests.support.clips marks it
_PR_SET_PDEATHSIG = 1  # prctl(2): no worker outlives the test that started it


class StubbornRecogniser:
    """The embedded model behind a gate."""

    def __init__(self, real: Recogniser, gate: Path | None, poison: frozenset[str]) -> None:
        self._real = real
        self._gate = gate
        self._poison = poison

    def fail(self, times: int, message: str) -> None:
        """Let the next runs of the graph fail as the runtime would."""
        graph: Any = self._real._graph
        run = graph.best
        left = iter(range(times))

        def best(*arguments: Any) -> Any:
            if next(left, None) is not None:
                raise RuntimeError(message)
            return run(*arguments)

        graph.best = best

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def recognise(
        self, samples: NDArray[np.int16], language: str, itn: bool, **options: Any
    ) -> Transcript:
        if audio_identity(samples) in self._poison:
            os.kill(os.getpid(), signal.SIGKILL)
        if self._gate:
            self._gate.with_suffix(".reached").touch()
        while self._gate and self._gate.exists():
            time.sleep(0.005)
        return self._real.recognise(samples, language, itn, **options)


def _decode_as(revision: str) -> None:
    """Decode as other libraries, or another version of ours, would."""

    def decode(fetched: Fetched, policy: AudioPolicy) -> Decoded:
        samples, warnings = decode_with_warnings(fetched, policy)
        fetched.file.seek(0)
        if _DAMAGE not in fetched.file.read():
            return Decoded(samples, warnings)
        if revision == "old":
            return Decoded(samples[: samples.size // 2], ())
        return Decoded(samples, (AudioWarning("audio_damaged", "lost – \udcff – is some of it"),))

    setattr(transcribing, "decode_with_warnings", decode)  # noqa: B010 - to a type checker it is no
    setattr(components, "decode_revision", lambda: revision)  # noqa: B010 - part of these modules


def _succeed_one_another(lives: int) -> None:
    """Return in as many processes, in each when the one before has ended.

    They are forked, before anything has a thread, so that one model is loaded for all.
    """
    for _ in range(lives - 1):
        if (child := os.fork()) == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            return
        os.waitpid(child, 0)


def main() -> None:
    configure_logs("info")
    gate = os.environ.get("STUBBORN_GATE")
    poison = frozenset(os.environ.get("STUBBORN_POISON", "").split())
    real = Recogniser.load(resolve_model("demo", allow_download=False), device="cpu")
    recogniser: Any = StubbornRecogniser(real, Path(gate) if gate else None, poison)
    times, _, message = os.environ.get("STUBBORN_FAULT", "").partition(" ")
    if times:
        recogniser.fail(int(times), message)
    if revision := os.environ.get("STUBBORN_REVISION"):
        _decode_as(revision)
    _succeed_one_another(int(os.environ.get("STUBBORN_LIVES", "1")))
    run_until_stopped(load_settings(WorkerSettings), lambda: recogniser)


if __name__ == "__main__":
    main()
