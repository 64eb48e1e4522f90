from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.workspace import DISTRIBUTIONS, ROOT


def pip(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A wheel of each distribution, built from the checkout by the backend that is pinned."""
    folder = tmp_path_factory.mktemp("wheels")
    sources = [f"./{name}" for name in DISTRIBUTIONS]
    built = pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, *sources)
    assert built.returncode == 0, built.stderr
    return {name: next(folder.glob(f"sensestream_{name}-*.whl")) for name in DISTRIBUTIONS}
