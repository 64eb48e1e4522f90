"""docs/contract.md says what the code does: same keys, fields, defaults and errors."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from redis import Redis
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import KEY_MAP
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.request import LANGUAGES, Request, decode_request

DOCUMENT = Path(__file__).parents[2] / "docs" / "contract.md"


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading, by the name in their first cell."""
    section = DOCUMENT.read_text("utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]
    return {row[0].strip(" |`"): row[1:] for row in cells}


def test_the_keys_are_those_of_the_key_map() -> None:
    documented = {name.removeprefix("{name}:"): row[0] for name, row in table("Keys").items()}
    assert documented == {kind.pattern: kind.type for kind in KEY_MAP}


def test_the_request_fields_are_those_that_are_decoded() -> None:
    documented = table("A request")
    assert set(documented) == {field.name for field in fields(Request)}
    assert re.findall(r"`(\w+)`", documented["language"][0]) == list(LANGUAGES)
    request = decode_request("1700000000000-0", {b"audio": b"file:///a"})
    assert isinstance(request, Request)
    assert documented["language"][1].strip("` |") == request.language
    assert documented["itn"][1].strip("` |") == str(int(request.itn))
    assert documented["v"][1].strip("` |") == request.v


def test_the_outcome_fields_are_those_that_are_written() -> None:
    documented = table("An outcome")
    assert set(documented) == {field.name for field in fields(Outcome)}
    assert all(status.value in documented["status"][0] for status in Status)
    assert all(f"`{use.value}`" in documented["cache"][0] for use in CacheUse)


def test_the_errors_and_their_dead_letters_are_those_of_the_code() -> None:
    documented = {name: row[1].strip(" |") for name, row in table("Errors").items()}
    assert documented == {code.value: "yes" if code.dead_letter else "no" for code in ErrorCode}


@pytest.mark.parametrize("command", ["XADD", "XREAD", "SUBSCRIBE"])
def test_the_commands_for_redis_cli_are_taken_by_redis(redis_url: str, command: str) -> None:
    block = DOCUMENT.read_text("utf-8").split("```sh\n")[1].split("```")[0]
    [line] = [line for line in block.splitlines() if f" {command} " in line]
    words = [word.strip("'") for word in line.partition("#")[0].split()[1:]]
    words = ["1" if word == "0" else word for word in words]  # BLOCK 0 would wait for ever
    with Redis.from_url(redis_url) as redis, redis.pubsub() as live:
        if command == "SUBSCRIBE":
            live.execute_command(*words)
            assert live.parse_response(timeout=5)[0] == b"subscribe"
        else:
            redis.execute_command(*words)
