"""The workers of a run: some ordinary, some mortal at a named step, all replaced when they die."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from chaos.mortal_worker import STEPS

__all__ = ["Crew"]

_MORTAL = Path(__file__).with_name("mortal_worker.py")


class Crew:
    """`size` worker processes on one Redis; every second one dies by itself sooner or later."""

    def __init__(
        self, url: str, mortal_url: str, folder: Path, *, size: int, reclaim_after: float, seed: int
    ) -> None:
        self.reclaim_after = reclaim_after
        self.deaths: dict[str, int] = dict.fromkeys(STEPS, 0)
        self._urls = {"": url, **dict.fromkeys(STEPS, mortal_url)}
        self._folder = folder
        self._seed = seed
        self._draw = random.Random(f"crew {seed}")
        self._numbers = itertools.count()
        self._frozen: dict[int, float] = {}
        self._workers = [self._start(mortal=slot % 2 == 1) for slot in range(size)]

    def __len__(self) -> int:
        return len(self._workers)

    def replace(self, slot: int, *, kill: bool) -> str:
        """End a worker (SIGKILL, or SIGTERM and a drain in its own time) and start another."""
        process, step = self._workers[slot]
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self._frozen.pop(slot, None)
        self._workers[slot] = self._start(mortal=slot % 2 == 1)
        return f"worker {process.pid} {step}".strip()

    def freeze(self, slot: int, seconds: float) -> str:
        process, _ = self._workers[slot]
        process.send_signal(signal.SIGSTOP)
        self._frozen[slot] = time.monotonic() + seconds
        return f"worker {process.pid}"

    def look_after(self) -> None:
        """Wake who has been frozen long enough, and replace who has died at its step."""
        for slot, until in list(self._frozen.items()):
            if time.monotonic() > until:
                self._workers[slot][0].send_signal(signal.SIGCONT)
                del self._frozen[slot]
        for slot, (process, step) in enumerate(self._workers):
            if process.poll() is not None:
                if step:
                    self.deaths[step] += 1
                self._workers[slot] = self._start(mortal=slot % 2 == 1)

    def settle(self) -> None:
        """From now on nobody dies: wake the frozen, replace the mortal by ordinary workers."""
        for slot, (process, step) in enumerate(self._workers):
            process.send_signal(signal.SIGCONT)
            if step:
                process.kill()
                process.wait()
                self._workers[slot] = self._start(mortal=False)
        self._frozen.clear()

    def end(self) -> None:
        for process, _ in self._workers:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process, _ in self._workers:
            process.wait(60)

    def _start(self, *, mortal: bool) -> tuple[subprocess.Popen[bytes], str]:
        number = next(self._numbers)
        step = self._draw.choice(STEPS) if mortal else ""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SENSESTREAM_")}
        environment |= {
            "SENSESTREAM_REDIS_URL": self._urls[step],
            "SENSESTREAM_MODEL": "demo",
            "SENSESTREAM_DEVICE": "cpu",
            "SENSESTREAM_CONCURRENCY": "1",
            "SENSESTREAM_AUDIO_ROOTS": str(self._folder),
            "SENSESTREAM_RECLAIM_AFTER": str(self.reclaim_after),
            # A crash here is chaos's doing, not the clip's: it must never be condemned for it.
            "SENSESTREAM_MAX_ATTEMPTS": "1000",
            "CHAOS_STEP": step,
            "CHAOS_CHANCE": "0.02" if step in ("after-read", "in-engine") else "0.004",
            "CHAOS_SEED": f"{self._seed}-{number}",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        command = [sys.executable, str(_MORTAL)]
        if not mortal:
            command = [str(Path(sys.executable).with_name("sensestream-worker"))]
        with (self._folder / f"worker-{number}.log").open("wb") as log:
            return subprocess.Popen(command, env=environment, stderr=log), step
