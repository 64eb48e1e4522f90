"""Three distributions that are one project: versions, pins, imports, licences."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module

import pytest

from tests.packaging.workspace import DISTRIBUTIONS, ROOT, package, pyproject

CONSTRAINTS = [
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


def normal(requirement: str) -> str:
    """The distribution's name, as package indexes compare names."""
    name = re.split(r"[\[<>=!~; ]", requirement, maxsplit=1)[0]
    return re.sub(r"[-_.]+", "-", name).lower()


def requirements() -> Iterator[str]:
    for folder in DISTRIBUTIONS:
        content = pyproject(folder)
        yield from content["build-system"]["requires"]
        yield from content["project"]["dependencies"]
        for extra, needs in content["project"].get("optional-dependencies", {}).items():
            if extra != "gpu":  # never installed where the tests run
                yield from needs
    for group in pyproject(".")["dependency-groups"].values():
        yield from group


def test_the_three_distributions_carry_one_version() -> None:
    versions = {folder: pyproject(folder)["project"]["version"] for folder in (".", *DISTRIBUTIONS)}
    versions["import"] = import_module("sensestream_common").__version__
    assert len(set(versions.values())) == 1, versions


@pytest.mark.parametrize("folder", ["producer", "consumer"])
def test_each_side_asks_for_exactly_the_contract_it_was_made_with(folder: str) -> None:
    version = pyproject("common")["project"]["version"]
    required = [
        re.sub(r"\[.*\]", "", dependency)
        for dependency in pyproject(folder)["project"]["dependencies"]
    ]
    assert f"sensestream-common=={version}" in required


@pytest.mark.parametrize(
    ("folder", "foreign"),
    [
        ("common", {"sensestream_producer", "sensestream_consumer"}),
        ("producer", {"sensestream_consumer"}),
        ("consumer", {"sensestream_producer"}),
    ],
)
def test_producer_and_consumer_meet_in_the_contract_only(folder: str, foreign: set[str]) -> None:
    modules = list(package(folder).rglob("*.py"))
    assert modules
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules
        for name, line in imports(path.read_text())
        if name in foreign
    ]
    assert not found


def imports(source: str) -> Iterator[tuple[str, int]]:
    """The top-level names that a module imports, wherever in it, and the lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module.partition(".")[0], node.lineno


def test_every_requirement_is_pinned_to_the_version_that_was_tested() -> None:
    pinned = {normal(line) for line in CONSTRAINTS}
    wanted = {normal(one) for one in requirements()}
    missing = {name for name in wanted - pinned if not name.startswith("sensestream-")}
    assert not missing, "run: make constraints"


def test_the_pins_are_plain_versions_that_any_index_can_serve() -> None:
    pin = re.compile(r"[a-z0-9.-]+==[0-9][0-9a-z.]*( ; [^@]+)?")
    assert [line for line in CONSTRAINTS if not pin.fullmatch(line)] == []
    assert "torch" not in {normal(line) for line in CONSTRAINTS}


def test_no_file_names_the_host_of_a_package_registry() -> None:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing tells the project's files from others")
    # In two pieces, or this file would name them.
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "registry." + "npmjs", "deb." + "debian.org"]
    patterns = [part for host in hosts for part in ("-e", host)]
    search = subprocess.run(
        [git, "grep", "--fixed-strings", "-Il", *patterns],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert search.returncode in (0, 1), search.stderr  # 1: nothing found
    assert search.stdout.splitlines() == []


@pytest.mark.parametrize("folder", DISTRIBUTIONS)
def test_each_distribution_carries_the_licence(folder: str) -> None:
    assert (ROOT / folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
