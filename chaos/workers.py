"""The workers of a run: some ordinary, some mortal at a named step, all replaced when they die."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from chaos.mortal_worker import STEPS

__all__ = ["TooFewReady", "Workers"]

_MORTAL = Path(__file__).with_name("mortal_worker.py")
_START = 60.0  # seconds


class TooFewReady(Exception):
    """Too few workers are at work for a fault to mean anything."""


@dataclass(frozen=True)
class _Member:
    process: subprocess.Popen[bytes]
    step: str  # where it will die, or empty
    log: Path

    @property
    def ready(self) -> bool:
        return b'"worker_ready"' in self.log.read_bytes()[:20_000]


class Workers:
    """`size` worker processes on one Redis; every second one dies by itself sooner or later."""

    def __init__(
        self, url: str, mortal_url: str, folder: Path, *, size: int, reclaim_after: float, seed: int
    ) -> None:
        self.reclaim_after = reclaim_after
        self.deaths: dict[str, int] = dict.fromkeys(STEPS, 0)
        self._urls = {"": url, **dict.fromkeys(STEPS, mortal_url)}
        self._folder = folder
        self._seed = seed
        # Each step in its turn: drawn at random, one might not come for minutes.
        steps = random.Random(f"workers {seed}").sample(STEPS, len(STEPS))
        self._steps = itertools.cycle(steps)
        self._numbers = itertools.count()
        self._frozen: dict[int, float] = {}
        self._members = [self._start(mortal=slot % 2 == 1) for slot in range(size)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def pick(self, draw: random.Random) -> int:
        """The slot of a worker to kill or freeze; `TooFewReady` while half of them are starting.

        A worker whose step has killed none yet is left alone. Killed more often, workers would do
        little but start.
        """
        ready = [slot for slot, member in enumerate(self._members) if member.ready]
        worth = [slot for slot in ready if self.deaths.get(self._members[slot].step, 1)]
        if 2 * len(ready) <= len(self._members) or not worth:
            raise TooFewReady
        return draw.choice(worth)

    def replace(self, slot: int, *, kill: bool) -> str:
        """End a worker (SIGKILL, or SIGTERM and a drain in its own time) and start another."""
        member = self._members[slot]
        member.process.send_signal(signal.SIGCONT)
        member.process.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        self._frozen.pop(slot, None)
        self._members[slot] = self._start(mortal=slot % 2 == 1)
        return f"worker {member.process.pid} {member.step}".strip()

    def freeze(self, slot: int, seconds: float) -> str:
        process = self._members[slot].process
        process.send_signal(signal.SIGSTOP)
        self._frozen[slot] = time.monotonic() + seconds
        return f"worker {process.pid}"

    def maintain(self) -> None:
        """Wake workers that were frozen long enough, and replace those that died at their step."""
        for slot, until in list(self._frozen.items()):
            if time.monotonic() > until:
                self._members[slot].process.send_signal(signal.SIGCONT)
                del self._frozen[slot]
        for slot, member in enumerate(self._members):
            if member.process.poll() is not None:
                if member.step:
                    self.deaths[member.step] += 1
                self._members[slot] = self._start(mortal=slot % 2 == 1)

    def heal(self) -> None:
        """Wake the frozen workers, and replace the mortal ones by ordinary ones."""
        for slot, member in enumerate(self._members):
            member.process.send_signal(signal.SIGCONT)
            if member.step:
                member.process.kill()
                member.process.wait()
                self._members[slot] = self._start(mortal=False)
        self._frozen.clear()

    def await_ready(self) -> None:
        deadline = time.monotonic() + _START
        while not all(member.ready for member in self._members) and time.monotonic() < deadline:
            time.sleep(0.05)

    def end(self) -> None:
        for member in self._members:
            member.process.send_signal(signal.SIGCONT)
            member.process.terminate()
        for member in self._members:
            member.process.wait(60)

    def restart(self) -> None:
        """As many ordinary workers as before, after the end of the others."""
        self._members = [self._start(mortal=False) for _ in self._members]

    def ended(self) -> int:
        """How many have ended by themselves since the last `maintain`."""
        return sum(member.process.poll() is not None for member in self._members)

    def late_commits(self) -> int:
        """How often a commit found the entry committed by another worker, and wrote nothing."""
        logs = self._folder.glob("worker-*.log")
        return sum(log.read_bytes().count(b'"request_answered_by_another"') for log in logs)

    def _start(self, *, mortal: bool) -> _Member:
        number = next(self._numbers)
        step = next(self._steps) if mortal else ""
        command = [sys.executable, str(_MORTAL)]
        if not mortal:
            command = [str(Path(sys.executable).with_name("sensestream-worker"))]
        path = self._folder / f"worker-{number}.log"
        with path.open("wb") as log:
            environment = self._environment(step, number)
            return _Member(subprocess.Popen(command, env=environment, stderr=log), step, path)

    def _environment(self, step: str, number: int) -> dict[str, str]:
        return {
            **{k: v for k, v in os.environ.items() if not k.startswith("SENSESTREAM_")},
            "SENSESTREAM_REDIS_URL": self._urls[step],
            "SENSESTREAM_MODEL": "demo",
            "SENSESTREAM_DEVICE": "cpu",
            "SENSESTREAM_CONCURRENCY": "1",
            "SENSESTREAM_AUDIO_ROOTS": str(self._folder),
            "SENSESTREAM_RECLAIM_AFTER": str(self.reclaim_after),
            # A crash here is chaos's doing, not the clip's: it must never be condemned for it.
            "SENSESTREAM_MAX_ATTEMPTS": "1000",
            "CHAOS_STEP": step,
            "CHAOS_CHANCE": str(self._chance(step)),
            "CHAOS_SEED": f"{self._seed}-{number}",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }

    def _chance(self, step: str) -> float:
        """Of dying at one passage: high until somebody has, then once in some seconds of work."""
        rare = step in ("after-read", "in-engine")  # a passage is a whole read, or a miss
        usual = 0.02 if rare else 0.004
        return usual if self.deaths.get(step) else 10 * usual
