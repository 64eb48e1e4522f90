"""The benchmark's own way of calling the engine still works."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import soundfile

from tests.consumer.engine.speech import ROOT
from training.full_size import build, speech_like
from training.sanm_graph import Sizes

TINY = Sizes(width=64, heads=2, feed_forward=96, first_blocks=2, last_blocks=1, pieces=600)


def test_a_contender_tells_what_a_round_took_and_by_what_stage(tmp_path: Path) -> None:
    model = build(tmp_path / "tiny", TINY)
    clips = [tmp_path / f"clip-{number}.wav" for number in range(2)]
    for number, path in enumerate(clips):
        soundfile.write(path, speech_like(2.0, seed=number), 16_000)
    cores = sorted(os.sched_getaffinity(0))
    job = {"clips": [str(path) for path in clips], "threads": 1, "cores": 1}
    script = ROOT / "benchmarks" / "contender.py"
    done = subprocess.run(
        [sys.executable, str(script), "Ours", str(model), ",".join(map(str, cores))],
        input=json.dumps(job) + "\n", capture_output=True, text=True, check=True,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")},
    )  # fmt: skip
    loaded, answer = map(json.loads, done.stdout.splitlines())
    assert loaded["load"] > 0
    assert len(set(answer["texts"])) == 2
    assert set(answer["stages"]) == {"decode", "features", "run"}
    assert 0 < sum(answer["stages"].values()) <= answer["cpu"]
    assert answer["peak_mb"] > 0
