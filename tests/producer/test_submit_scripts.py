"""The scripts of a submit and their callers agree on the names, order and number of their parts."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from sensestream_common.connections.pipelined_connection import EncodedArgs, encode_args
from sensestream_common.connections.scripts import load_script
from sensestream_common.contract.keys import Keys, Lane
from sensestream_common.contract.outcome import Outcome, Status, to_json_text
from sensestream_common.contract.request import Request
from sensestream_producer.submit.cached_result import (
    ANSWER_ARGUMENTS,
    ANSWER_KEYS,
    CachedReply,
    CachedResult,
    ResultKey,
)
from sensestream_producer.submit.pending import (
    SUBMIT_ARGUMENTS,
    SUBMIT_KEYS,
    SUBMIT_UPLOAD_KEYS,
    PendingSubmit,
)

KEYS = Keys("sensestream")
SUBMIT = load_script("sensestream_producer.submit", "submit").source
ANSWER = load_script("sensestream_producer.submit", "answer").source
DIGEST = "sha256:" + "0" * 64


def declared(script: str) -> list[tuple[str, ...]]:
    """The numbered names of the header, in groups that each begin with 1."""
    groups: list[list[str]] = []
    for number, name in re.findall(r"^--\s+(\d+) (\w+)  ", script, re.MULTILINE):
        if number == "1":
            groups.append([])
        groups[-1].append(name)
        assert int(number) == len(groups[-1])
    return [tuple(group) for group in groups]


def unpacked(script: str, source: str, start: str) -> tuple[str, ...]:
    """The names that the script gives to a stretch of KEYS or ARGV."""
    [names] = re.findall(rf"((?:\w+,\s+)*\w+) = unpack\({source}, {start}, ", script)[-1:]
    return tuple(re.findall(r"\w+", names))


def size(script: str, name: str) -> int:
    """The number that the script gives to one of its constants."""
    [(names, numbers)] = re.findall(r"^local (OWN_[\w, ]+) = ([\d, ]+)$", script, re.MULTILINE)
    return int(dict(zip(names.split(", "), numbers.split(", "), strict=True))[name])


def decoded(*parts: EncodedArgs) -> list[str]:
    """Encoded arguments as text; it fails where their number is another."""
    words = []
    for part in parts:
        content, found = part.content, []
        while content:
            length, _, content = content.partition(b"\r\n")
            end = int(length[1:])
            found.append(content[:end].decode())
            content = content[end + 2 :]
        assert len(found) == part.number
        words += found
    return words


def test_submit_lua_declares_and_uses_the_names_of_its_caller() -> None:
    assert declared(SUBMIT) == [SUBMIT_KEYS, SUBMIT_UPLOAD_KEYS, SUBMIT_ARGUMENTS]
    assert "local request = unpack(KEYS, k, k + OWN_KEYS - 1)" in SUBMIT
    assert unpacked(SUBMIT, "KEYS", "k") == SUBMIT_UPLOAD_KEYS
    assert unpacked(SUBMIT, "ARGV", "a") == SUBMIT_ARGUMENTS
    assert size(SUBMIT, "OWN_KEYS") == len(SUBMIT_KEYS)
    assert size(SUBMIT, "OWN_UPLOAD_KEYS") == len(SUBMIT_UPLOAD_KEYS)
    assert size(SUBMIT, "OWN_ARGUMENTS") == len(SUBMIT_ARGUMENTS)


def test_answer_lua_declares_and_uses_the_names_of_its_caller() -> None:
    assert declared(ANSWER) == [ANSWER_KEYS, ANSWER_ARGUMENTS]
    assert unpacked(ANSWER, "KEYS", "k") == ANSWER_KEYS
    assert unpacked(ANSWER, "ARGV", "a") == ANSWER_ARGUMENTS
    assert size(ANSWER, "OWN_KEYS") == len(ANSWER_KEYS)
    assert size(ANSWER, "OWN_ARGUMENTS") == len(ANSWER_ARGUMENTS)


@pytest.mark.parametrize("staged", ["", KEYS.upload("staged")])
def test_each_part_of_a_submit_is_sent_under_its_name(staged: str) -> None:
    request = Request(audio="file:///a.wav", id="a", language="en")
    submit = PendingSubmit(request, Lane.HIGH, time_left=7, staged=staged)
    names = SUBMIT_KEYS + (SUBMIT_UPLOAD_KEYS if staged else ())
    keys = dict(zip(names, submit.keys(KEYS), strict=True))
    assert keys["request"] == KEYS.request("a")
    assert (keys.get("staged"), keys.get("upload")) == (
        (staged, KEYS.upload("a")) if staged else (None, None)
    )
    sent = submit.arguments()
    own = dict(zip(SUBMIT_ARGUMENTS, sent, strict=False))
    fields = sent[len(SUBMIT_ARGUMENTS) :]
    assert own == {
        "lane": "high",
        "time_left": 7,
        "uploads": 1 if staged else 0,
        "field_count": len(fields),
    }
    assert dict(zip(fields[::2], fields[1::2], strict=True)) == request.encode()


def test_each_part_of_an_answer_is_sent_under_its_name() -> None:
    fields: dict[str, Any] = {"text": "a b", "status": Status.COMPLETED, "digest": DIGEST}
    entry = Outcome(id="", entry="", **fields).encode()
    words = [part for pair in entry.items() for part in pair]
    result = CachedResult(
        recogniser="r",
        decode_revision="1",
        keys=encode_args(KEYS.result("r"), KEYS.audio(DIGEST, "1")),
        checksum="e" * 40,
        fields=fields,
        field_count=len(words),
        arguments=encode_args(*words, to_json_text(entry)[1:-1]),
    )
    assert len(ANSWER_KEYS) == 1 + result.keys.number  # the request's key goes before them
    request = Request(
        audio="file:///a.wav", id="a", callback_url="http://a/", metadata='{"n":1}', digest=DIGEST
    )
    key = ResultKey(DIGEST, "auto", True, digest_unverified=True)
    sent = decoded(*CachedReply(request, Lane.HIGH, key, result).arguments(5000))
    own = dict(zip(ANSWER_ARGUMENTS, sent, strict=False))
    *pairs, members = sent[len(ANSWER_ARGUMENTS) :]
    written = dict(zip(pairs[::2], pairs[1::2], strict=True))
    own_members = json.loads(f"{{{own.pop('own_members')}}}")
    assert own == {
        "lane": "high",
        "digest_unverified": "1",
        "expected_sha1": "e" * 40,
        "result_ttl": "5000",
        "webhook_url": "http://a/",
        "id": "a",
        "field_count": str(len(pairs)),
    }
    assert own_members == {"id": "a", "audio": "file:///a.wav", "metadata": {"n": 1}}
    assert own_members.keys() | json.loads(f"{{{members}}}").keys() == written.keys()
