"""The layout of the three packages, beyond the import contracts in pyproject.toml."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.packaging.workspace import DISTRIBUTIONS, ROOT, package, pyproject

MOST_ENTRIES = 18  # files and folders that are taken in at a glance
WORKER = "sensestream_consumer"


class ScriptCall(NamedTuple):
    """A call of `load_script`: the package of the module that calls, and the two arguments."""

    caller: str
    package: str
    script: str


def script_calls() -> Iterator[ScriptCall]:
    for folder in DISTRIBUTIONS:
        for path in package(folder).rglob("*.py"):
            caller = ".".join(path.parent.relative_to(ROOT / folder).parts)
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.Call) and ast.unparse(node.func) == "load_script":
                    place, name = (ast.literal_eval(argument) for argument in node.args)
                    yield ScriptCall(caller, place, name)


CALLS = sorted(set(script_calls()))


def floor(name: str) -> int:
    """How high a package of the worker stands: 0 is the lowest floor."""
    contracts = pyproject(".")["tool"]["importlinter"]["contracts"]
    [layers] = [one["layers"] for one in contracts if one.get("containers") == [WORKER]]
    room = name.split(".")[1]
    [height] = [n for n, layer in enumerate(reversed(layers)) if room in layer.split(" | ")]
    return height


@pytest.mark.parametrize("call", CALLS, ids=lambda call: f"{call.caller}-{call.script}")
def test_no_script_is_loaded_from_a_higher_floor(call: ScriptCall) -> None:
    if f"{call.package}.".startswith(f"{call.caller}."):
        return  # beside the module that calls it, or in a folder below
    assert call.package.startswith(f"{WORKER}.")
    assert call.caller.startswith(f"{WORKER}.")
    assert floor(call.package) < floor(call.caller)


def test_every_script_is_loaded() -> None:
    scripts = {
        (".".join(path.parent.relative_to(ROOT / folder).parts), path.stem)
        for folder in DISTRIBUTIONS
        for path in package(folder).rglob("*.lua")
    }
    assert scripts == {(call.package, call.script) for call in CALLS}


def test_no_folder_shows_more_entries_than_are_taken_in_at_a_glance() -> None:
    folders = [path for name in DISTRIBUTIONS for path in package(name).rglob("*") if path.is_dir()]
    folders += [package(name) for name in DISTRIBUTIONS]
    crowded = {
        str(folder.relative_to(ROOT)): len(shown)
        for folder in folders
        if len(shown := entries(folder)) > MOST_ENTRIES
    }
    assert not crowded


def entries(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name != "__pycache__"]
