"""The folder of converted graphs: its place, and its lock between processes."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from sensestream_consumer.engine.graph.graph_cache import GraphCache, default_cache_folder

HOLD_THE_LOCK = """
import sys, time
from pathlib import Path
from sensestream_consumer.engine.graph.graph_cache import GraphCache
with GraphCache(Path(sys.argv[1])).making("key"):
    print("held", flush=True)
    time.sleep(600)
"""

# Root may write anywhere, so the process gives its rights up first.
WRITE_INTO_A_READ_ONLY_FOLDER = """
import os, sys
from pathlib import Path
from sensestream_consumer.engine.graph.graph_cache import GraphCache
cache = GraphCache(Path(sys.argv[1]))
if os.geteuid() == 0:
    os.setuid(65534)
with cache.making("key") as scratch:
    (scratch / "graph").write_text("whole")
    print(scratch.parent == cache.folder)
print(scratch.exists())
"""


def test_the_lock_of_a_process_that_was_killed_keeps_nobody_out(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD_THE_LOCK, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.kill()
    with GraphCache(tmp_path).making("key") as scratch:
        assert scratch.parent == tmp_path / "graphs"


def test_in_a_read_only_folder_an_entry_is_made_elsewhere() -> None:
    with tempfile.TemporaryDirectory() as name:
        graphs = Path(name) / "graphs"
        graphs.mkdir()
        Path(name).chmod(0o755)
        graphs.chmod(0o555)
        command = [sys.executable, "-c", WRITE_INTO_A_READ_ONLY_FOLDER, name]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert list(graphs.iterdir()) == []
    assert "model_cache_not_writable" in done.stdout
    assert done.stdout.splitlines()[-2:] == ["False", "False"]


def test_on_a_disk_without_locks_an_entry_is_made_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise NotImplementedError("this file system has no locks")

    monkeypatch.setattr("filelock.FileLock.acquire", refuse)
    cache = GraphCache(tmp_path)
    with cache.making("key") as scratch:
        assert scratch.parent != cache.folder
    assert not scratch.exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other folders for caches")
def test_the_cache_stands_in_the_user_s_cache_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_folder() == tmp_path / ".cache" / "sensestream"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
    assert default_cache_folder() == tmp_path / "elsewhere" / "sensestream"
