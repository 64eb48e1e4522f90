"""How much memory long recordings and ready workers take on this machine, in two tables.

    make bench-memory            or: python benchmarks/memory.py [--model DIR] [--vad DIR]

The embedded model without arguments, in under two minutes. A model of full size is built by
`python -m training.full_size DIR`; an hour of audio then takes minutes. Each recording is
transcribed in a process of its own (see transcribing.py). Linux only: it reads /proc.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from machine import RESULTS, busy_seconds, environment, keep
from sensestream_consumer.engine import resolve_model
from sensestream_producer.local.redis_server import EmbeddedRedis

READY_TIMEOUT = 300.0  # seconds: a model of full size may be converted first
KILOBYTE, MEGABYTE = 1024, 1e6


def transcribe(options: argparse.Namespace, cores: int) -> list[dict[str, Any]]:
    """Every length with a thread a core, and all but the longest with one thread, too."""
    lengths = sorted(options.minutes)
    cases = [(minutes, 1) for minutes in lengths[:-1]] + [(minutes, cores) for minutes in lengths]
    rows = []
    for minutes, threads in cases:
        script = str(Path(__file__).with_name("transcribing.py"))
        seconds = str(round(minutes * 60))
        command = [sys.executable, script, str(options.model), options.vad, seconds, str(threads)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"transcribing {minutes:g} minutes failed")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"transcribed {minutes:g} min with {threads} thread(s)", flush=True)
    return rows


def ready_workers(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Two workers on one machine: what the first holds, and how much of it both share."""
    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis() as redis:
        logs = [Path(folder) / f"worker-{number}.log" for number in range(2)]
        with contextlib.ExitStack() as stack:
            started = []
            for log in logs:
                began = time.monotonic()
                pid = stack.enter_context(_worker(options, redis.url, log))
                ready = {"ready": round(time.monotonic() - began, 2), "ready_cpu": _cpu(pid)}
                started.append((pid, ready))
            # Only now, as there is nothing to share before the second one is there.
            return [{**_sizes(pid), **ready} for pid, ready in started]


@contextlib.contextmanager
def _worker(options: argparse.Namespace, url: str, log: Path) -> Iterator[int]:
    """The process of a worker that is ready."""
    settings = {
        "REDIS_URL": url,
        "MODEL": str(options.model),
        "VAD_MODEL": options.vad,
        "DEVICE": "cpu",
        "AUDIO_ROOTS": str(log.parent),
    }
    variables = os.environ | {f"SENSESTREAM_{name}": text for name, text in settings.items()}
    command = [str(Path(sys.executable).with_name("sensestream-worker"))]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env=variables, stderr=sink)
    try:
        began = time.monotonic()
        while "worker_ready" not in (text := log.read_text("utf-8", "replace")):
            if process.poll() is not None or time.monotonic() - began > READY_TIMEOUT:
                sys.exit(f"the worker did not start:\n{text}")
            time.sleep(0.02)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _sizes(pid: int) -> dict[str, int]:
    """Megabytes of a process, and how many of them it shares with others."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    sizes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)
    }
    shared = sizes["Shared_Clean"] + sizes["Shared_Dirty"]
    return {
        name: round(size * KILOBYTE / MEGABYTE)
        for name, size in (("mb", sizes["Rss"]), ("shared_mb", shared))
    }


def _cpu(pid: int) -> float:
    """Processor seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def recordings_table(rows: Sequence[dict[str, Any]]) -> list[str]:
    head = (
        f"{'recording':>10}{'threads':>9}{'pieces':>8}{'cutting MB':>12}{'transcribing MB':>17}"
        f"{'samples MB':>12}{'CPU s':>9}{'audio s per CPU s':>19}"
    )
    lines = [head]
    for row in rows:
        cpu = row["transcribing"]["cpu"]
        lines.append(
            f"{row['seconds'] / 60:>6g} min{row['threads']:>9}{row['pieces']:>8}"
            f"{row['cutting']['mb']:>12.0f}{row['transcribing']['mb']:>17.0f}"
            f"{row['samples_mb']:>12.0f}{cpu:>9.1f}{row['seconds'] / cpu:>19.1f}"
        )
    return lines


def run(options: argparse.Namespace) -> dict[str, Any]:
    cores = sorted(os.sched_getaffinity(0))
    busy, began, load = busy_seconds(), time.monotonic(), os.getloadavg()[0]
    workers = ready_workers(options)
    rows = transcribe(options, len(cores))
    mine = sum(os.times()[2:4]) + sum(os.times()[:2])
    others = max(0.0, busy_seconds() - busy - mine) / ((time.monotonic() - began) * len(cores))
    facts = {**environment(cores), "load": load, "others_share": others}
    print(f"\n{rows[0]['model']}, cut {rows[0]['cut']}; memory beyond the model and the samples:\n")
    print("\n".join(recordings_table(rows)) + "\n")
    first, second = workers
    print(
        f"A ready worker holds {first['mb']} MB (another one {second['mb']}), of which two share "
        f"{first['shared_mb']}; the second was ready after {second['ready']} s, "
        f"{second['ready_cpu']:.1f} s of them the processor's."
    )
    print(
        f"{facts['processor']}{'' if facts['vnni'] else ', no VNNI'}, {len(cores)} cores, "
        f"ONNX Runtime {facts['onnxruntime']}, Python {facts['python']}. Load {load:.1f} to "
        f"{os.getloadavg()[0]:.1f}; others took {others:.0%} of the machine."
    )
    return {"environment": facts, "recordings": rows, "workers": workers}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo", help="a model directory, or demo")
    parser.add_argument("--vad", default="", help="a voice activity model's directory")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 10, 60])
    options = parser.parse_args()
    options.model = resolve_model(options.model, allow_download=False)
    print(f"everything: {keep('memory', run(options), options.results)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
