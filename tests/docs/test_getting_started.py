"""docs/getting-started.md: its blocks are run in their order, and print what the page shows."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.docs.pages import fenced
from tests.packaging.workspace import ROOT

pytestmark = pytest.mark.long

PAGE = (ROOT / "docs" / "getting-started.md").read_text("utf-8")
SEPARATOR = "\x1e"
FILES = dict(
    re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
)

# What differs from run to run: made-up ids, moments, times taken, and the folder.
VARIABLE = re.compile(
    r"\b[0-9a-f]{32}\b|\b\d{13}(-\d+)?\b|\d{4}-\d\d-\d\dT[\d:+]+| *\d+ ms|(?<=file://)/\S*/"
)


@pytest.mark.timeout(300)
def test_every_block_works_in_the_order_of_the_page_and_prints_what_it_shows(
    checkout: Path, redis_executable: str
) -> None:
    printed = run_all(checkout, f"{Path(redis_executable).parent}{os.pathsep}{os.environ['PATH']}")
    shown = list(shown_outputs())
    assert len(printed) == len(shown)
    for (command, expected), actual in zip(shown, printed, strict=True):
        missing = lines_missing(expected, actual)
        assert missing == [], f"{command}printed\n{actual}"
    assert not (checkout / "first-steps").exists()


@pytest.fixture
def checkout() -> Iterator[Path]:
    """A folder with all that a checkout holds; a short path, since a socket is made in it."""
    if Path(sys.prefix).parent != ROOT:
        pytest.skip(f"{sys.prefix} is not the checkout's own environment: use `make test`")
    with tempfile.TemporaryDirectory(prefix="first-") as folder:
        scratch = Path(folder)
        for entry in ROOT.iterdir():
            (scratch / entry.name).symlink_to(entry)
        (scratch / ".venv").unlink(missing_ok=True)
        (scratch / ".venv").symlink_to(sys.prefix)  # `make test VENV=…` has it elsewhere
        yield scratch


def run_all(checkout: Path, path: str) -> list[str]:
    """What each shell block printed on standard output; one shell runs them all."""
    script = "".join(f"printf '{SEPARATOR}'\n{step}" for step in steps())
    clean = {name: at for name, at in os.environ.items() if not name.startswith("SENSESTREAM_")}
    with subprocess.Popen(
        # Not -u: the activate of Python 3.12 asks for OSTYPE, which no plain shell sets.
        ["sh", "-e", "-c", script],
        cwd=checkout,
        env={**clean, "PATH": path, "VENV": Path(sys.prefix).name},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as shell:
        try:
            output, errors = shell.communicate(timeout=280)
        finally:
            with suppress(ProcessLookupError):  # unless a failed step left something running
                os.killpg(shell.pid, signal.SIGKILL)
    assert shell.returncode == 0, f"{output}\n{errors}"
    return output.split(SEPARATOR)[1:]


def steps() -> Iterator[str]:
    """The shell blocks; in front of each, the files that the reader has been told to save."""
    saved = ""
    for language, block in fenced(PAGE):
        for name, content in FILES.items():
            if content == block:
                saved += f"cat > {name} <<'END-OF-FILE'\n{content}END-OF-FILE\n"
        if language == "sh":
            yield saved + block
            saved = ""


def shown_outputs() -> Iterator[tuple[str, str]]:
    """Each shell block with the output that the page shows behind it, if it does."""
    blocks = [block for block in fenced(PAGE) if block[1] not in FILES.values()]
    for (language, block), (following, output) in zip(
        blocks, [*blocks[1:], ("sh", "")], strict=True
    ):
        if language == "sh":
            yield block, "" if following == "sh" else output


def lines_missing(expected: str, actual: str) -> list[str]:
    """The lines that were not printed in that order; the page may leave lines out."""
    printed = iter([VARIABLE.sub("·", line) for line in actual.splitlines()])
    return [
        line
        for line in expected.splitlines()
        if not any(VARIABLE.sub("·", line) == each for each in printed)
    ]
