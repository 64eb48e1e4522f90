"""The memory benchmark: that it runs and tells what it found, not what that is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.consumer.engine.speech import ROOT

pytestmark = pytest.mark.long


@pytest.mark.skipif(sys.platform != "linux", reason="it reads Linux's /proc")
def test_one_command_tells_the_memory_of_recordings_and_of_ready_workers(
    redis_executable: str, tmp_path: Path
) -> None:
    script = str(ROOT / "benchmarks" / "memory.py")
    command = [sys.executable, script, "--minutes", "0.7", "--results", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert "A ready worker holds" in done.stdout
    assert "Load " in done.stdout
    found = json.loads((tmp_path / "memory-latest.json").read_text())
    (row,) = found["recordings"]
    assert (row["seconds"], row["model"], row["pieces"]) == (42, "demo-int8", 2)
    assert row["characters"] > 10
    assert 0 < row["transcribing"]["mb"] < row["loaded_mb"]
    for worker in found["workers"]:
        assert 0 < worker["shared_mb"] < worker["mb"]
