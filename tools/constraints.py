"""Write constraints.txt: one version of everything, for every Python that is supported.

Reads what the pyproject.toml files ask for, resolves it universally with uv (installed in a
throw-away environment), and keeps the versions that are pinned already unless told `--upgrade`.
The extra `gpu` is left out: onnxruntime-gpu must never stand beside onnxruntime.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
DISTRIBUTIONS = ("common", "producer", "consumer")
LEFT_OUT = {"gpu"}
UV = "uv==0.13.9"
# jieba comes as source only and names no build backend, which means setuptools.
BUILD_BACKENDS = ["setuptools"]
# uv repeats the environments that it was asked to resolve for on every line.
ENVIRONMENTS = "sys_platform == 'linux' and python_full_version < '3.13'"
ALWAYS = {
    *ENVIRONMENTS.split(" and "),
    "implementation_name != 'PyPy'",
    "platform_python_implementation != 'PyPy'",
}
HEADER = """\
# Every version that was tested, on Python 3.11 and 3.12, Linux. Written by `make constraints`.
# Use: pip install -c constraints.txt ...
"""


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "pyproject.toml").write_text(project(requirements()))
        output = folder / "constraints.txt"
        if CONSTRAINTS.exists():
            output.write_bytes(CONSTRAINTS.read_bytes())
        compile_with_uv(folder, output, arguments)
        pins = [pin(line) for line in output.read_text().splitlines()]
    CONSTRAINTS.write_text(HEADER + "".join(f"{line}\n" for line in pins if line))
    print(f"{CONSTRAINTS.name}: {len(pins)} versions")
    return 0


def pin(line: str) -> str:
    """The line without the conditions that hold everywhere this project is tested."""
    package, _, marker = line.partition(" ; ")
    conditions = [one for one in marker.split(" and ") if one and one not in ALWAYS]
    return " ; ".join([package, *([" and ".join(conditions)] if conditions else [])])


def requirements() -> list[str]:
    """Everything the workspace asks for, apart from its own three distributions."""
    wanted = list(BUILD_BACKENDS)
    for name in DISTRIBUTIONS:
        content = load(ROOT / name / "pyproject.toml")
        wanted += content["build-system"]["requires"]
        wanted += content["project"]["dependencies"]
        for extra, needs in content["project"].get("optional-dependencies", {}).items():
            wanted += needs if extra not in LEFT_OUT else []
    for group in load(ROOT / "pyproject.toml")["dependency-groups"].values():
        wanted += [entry for entry in group if isinstance(entry, str)]
    return sorted({one for one in wanted if not re.match(r"sensestream[-_]", one)})


def project(wanted: list[str]) -> str:
    python = load(ROOT / "pyproject.toml")["project"]["requires-python"]
    return f"""\
[project]
name = "everything"
version = "0"
requires-python = {json.dumps(python)}
dependencies = {json.dumps(wanted)}
[tool.uv]
environments = [{json.dumps(ENVIRONMENTS)}]
"""


def compile_with_uv(folder: Path, output: Path, arguments: list[str]) -> None:
    tools = folder / "tools"
    venv.create(tools, with_pip=True)
    python = str(tools / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "--quiet", UV], check=True)
    command = [str(tools / "bin" / "uv"), "pip", "compile", "--quiet", "--universal"]
    # `fewest`: one version of each package for both Pythons, so that both run the same code.
    command += ["--fork-strategy", "fewest", "--no-header", "--no-annotate"]
    command += ["--no-emit-index-url", "--no-emit-find-links", "--output-file", output.name]
    environment = os.environ | {"UV_PYTHON_DOWNLOADS": "never"}
    subprocess.run(
        [*command, *arguments, "pyproject.toml"], cwd=folder, env=environment, check=True
    )


def load(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return tomllib.load(file)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
