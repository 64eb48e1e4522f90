"""Ours beside funasr-onnx and sherpa-onnx on this machine's processor, in one table.

    make bench-engine            or: python benchmarks/engine.py [--rounds 7] [--clips 4]

Builds the full-size model (`training/full_size.py`) and an environment for the peers
(`.venv-bench`) when they are missing. All run the same int8 weights on the same clips, file to
text, each in a process of its own, in turns: a round of one, then a round of the next. The table
has the median round, with the slowest and the fastest beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import (
    ROOT,
    busy_seconds,
    environment,
    full_size_model,
    keep,
    make_clips,
    peers_python,
)

SECONDS = 10.0
STAGES = ("decode", "features", "run", "text")
KINDS = {
    "FunasrReadme": "funasr-onnx, README",
    "FunasrBest": "funasr-onnx, best",
    "Sherpa": "sherpa-onnx",
    "Ours": "sensestream",
}
BARS = {"FunasrBest": 1.9, "Sherpa": 2.0}


class Contender:
    """A child process that recognises what it is told to."""

    def __init__(self, kind: str, python: Path, model: Path, cores: list[int]) -> None:
        self.kind = kind
        script = Path(__file__).with_name("contender.py")
        command = [str(python), str(script), kind, str(model), ",".join(map(str, cores))]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=tempfile.gettempdir(),
        )
        self.loaded = self._answer()
        self.one: list[dict[str, Any]] = []
        self.all: list[dict[str, Any]] = []

    def work(self, clips: list[str], *, threads: int, cores: int) -> dict[str, Any]:
        assert self._process.stdin
        job = {"clips": clips, "threads": threads, "cores": cores}
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        self._process.communicate()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            errors = self._process.communicate()[1]
            sys.exit(f"{self.kind} ended: {errors[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def spread(values: list[float], digits: int = 1) -> str:
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def audio_per_cpu(rounds: list[dict[str, Any]], clips: int) -> list[float]:
    return [clips * SECONDS / answer["cpu"] for answer in rounds]


def clips_per_second(rounds: list[dict[str, Any]], clips: int) -> list[float]:
    return [clips / answer["wall"] for answer in rounds]


def shares(rounds: list[dict[str, Any]], clips: int) -> dict[str, float]:
    """Milliseconds of processor time a clip, by stage; text is what remains."""
    found = {
        stage: 1000 * statistics.median(r["stages"].get(stage, 0.0) for r in rounds) / clips
        for stage in STAGES[:-1]
    }
    whole = 1000 * statistics.median(r["cpu"] for r in rounds) / clips
    return {**found, "text": max(0.0, whole - sum(found.values()))}


def measure(contenders: list[Contender], clips: list[str], rounds: int, cores: int) -> None:
    for contender in contenders:  # everything lazy is done: librosa alone compiles for seconds
        contender.work(clips, threads=1, cores=cores)
    for number in range(rounds):
        print(f"round {number + 1} of {rounds}", flush=True)
        for contender in contenders:
            contender.one.append(contender.work(clips, threads=1, cores=1))
        for contender in contenders:
            readme = contender.kind == "FunasrReadme"  # has threads of its own
            answer = contender.work(clips, threads=1 if readme else cores, cores=cores)
            contender.all.append(answer)


def table(contenders: list[Contender], clips: int) -> list[str]:
    head = (
        "",
        "audio s per CPU s",
        "clips/s, 1 core",
        "clips/s, all cores",
        "peak MB",
        "load s",
        "ms a clip: " + " / ".join(STAGES),
    )
    rows = [head]
    for contender in contenders:
        stages = shares(contender.one, clips)
        rows.append(
            (
                KINDS[contender.kind],
                spread(audio_per_cpu(contender.one, clips)),
                spread(clips_per_second(contender.one, clips), 2),
                spread(clips_per_second(contender.all, clips), 2),
                str(contender.all[-1]["peak_mb"]),
                f"{contender.loaded['load']:.1f}",
                " / ".join(f"{stages[stage]:.1f}" for stage in STAGES),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def ratios(contenders: list[Contender], clips: int) -> dict[str, list[float]]:
    """Ours over each peer, round by round, in audio seconds per processor second."""
    by_kind = {c.kind: audio_per_cpu(c.one, clips) for c in contenders}
    ours = by_kind.pop("Ours")
    return {
        kind: [mine / theirs for mine, theirs in zip(ours, values, strict=True)]
        for kind, values in by_kind.items()
    }


def print_ratios(found: dict[str, list[float]], *, vnni: bool) -> None:
    """The bars are for processors with VNNI: what is gained there comes from signed weights."""
    for kind, values in found.items():
        line = f"ours / {KINDS[kind]}, audio s per CPU s: {spread(values, 2)}"
        if vnni and kind in BARS:
            met = "met" if statistics.median(values) >= BARS[kind] else "MISSED"
            line += f", bar {BARS[kind]}: {met}"
        print(line)


def run(options: argparse.Namespace) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    peers = peers_python()
    model = full_size_model(options.model)
    with tempfile.TemporaryDirectory() as folder:
        kind_of_clips = make_clips(Path(folder), options.clips, SECONDS, peers)
        clips = sorted(str(path) for path in Path(folder).glob("*.wav"))
        contenders = []
        for kind in options.only:
            python = peers if kind == "Sherpa" else Path(sys.executable)
            print(f"loading {KINDS[kind]}", flush=True)
            contenders.append(Contender(kind, python, model, cores))
        busy, began, load = busy_seconds(), time.monotonic(), os.getloadavg()[0]
        measure(contenders, clips, options.rounds, len(cores))
        elapsed = time.monotonic() - began
        mine = sum(r["cpu"] for c in contenders for r in (*c.one, *c.all))
        others = max(0.0, busy_seconds() - busy - mine) / (elapsed * len(cores))
        for contender in contenders:
            contender.close()
            for answer in (*contender.one[1:], *contender.all):
                del answer["texts"]  # one round of them is enough to look at
    count = len(clips)
    found = ratios(contenders, count) if "Ours" in options.only else {}
    facts = {**environment(cores), "clips": kind_of_clips, "load": load, "others_share": others}
    print("\n" + "\n".join(table(contenders, count)) + "\n")
    print(
        f"{facts['processor']}, {len(cores)} cores, ONNX Runtime {facts['onnxruntime']}; "
        f"{count} clips of {SECONDS:g} s ({kind_of_clips}), {options.rounds} rounds in turns. "
        f"Load {load:.1f} to {os.getloadavg()[0]:.1f}; others took {others:.0%} of the machine."
    )
    print_ratios(found, vnni=facts["vnni"])
    return {
        "environment": facts,
        "ratios": found,
        "contenders": {
            c.kind: {"loaded": c.loaded, "one_core": c.one, "all_cores": c.all} for c in contenders
        },
    }


def main() -> int:
    from training.full_size import default_folder

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", type=Path, default=default_folder(), help="a full-size model")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--clips", type=int, default=4, help="clips a round")
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS))
    result = run(parser.parse_args())
    print(f"every round: {keep('engine', result).relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
