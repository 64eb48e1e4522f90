"""docs/asyncapi.yaml is AsyncAPI 3, and says what the code does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from sensestream_common.contract.alias import AudioWarning
from sensestream_common.contract.errors import ErrorCode
from sensestream_common.contract.keys import KEY_MAP, Keys, Lane
from sensestream_common.contract.outcome import CacheUse, Outcome, Status
from sensestream_common.contract.request import (
    LANGUAGES,
    MAX_CALLBACK_LENGTH,
    MAX_FIELDS,
    MAX_METADATA_BYTES,
    MAX_TTL,
    BadRequest,
    Request,
    decode_request,
)
from sensestream_common.contract.transcript import Segment, Transcript, Word

DOCUMENT: dict[str, Any] = yaml.safe_load(
    (Path(__file__).parents[2] / "docs" / "asyncapi.yaml").read_text("utf-8")
)
SCHEMAS: dict[str, Any] = DOCUMENT["components"]["schemas"]
SPECIFICATIONS = "@asyncapi/specs@6.11.1"
ENTRY = "1700000000000-0"
AUDIO = "file:///data/a.wav"


def validator(name: str) -> Draft7Validator:
    """Of one schema of the document, whose references lead into the document."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]}
    return Draft7Validator(schema)


def errors(name: str, value: Any) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in validator(name).iter_errors(value)]


def resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref")
    return SCHEMAS[reference.rpartition("/")[2]] if reference else schema


def defaults(name: str) -> dict[str, Any]:
    return {
        field: resolved(schema)["default"]
        for field, schema in SCHEMAS[name]["properties"].items()
        if "default" in resolved(schema)
    }


# -- the document itself --------------------------------------------------------------------------


@pytest.fixture(scope="session")
def specification(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The official JSON schema of AsyncAPI 3.0.0, which only the npm registry has."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm is not on this machine: the document was not validated")
    folder = tmp_path_factory.mktemp("specification")
    packed = subprocess.run(
        [npm, "pack", "--silent", "--prefer-offline", SPECIFICATIONS],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    if packed.returncode != 0:
        pytest.skip(f"no npm registry can be reached: {packed.stderr[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/schemas/3.0.0-without-$id.json")
        assert member is not None
        found: dict[str, Any] = json.load(member)
        return found


def test_it_is_valid_asyncapi_3(specification: dict[str, Any]) -> None:
    Draft7Validator.check_schema(specification)
    found = [
        f"{error.json_path}: {error.message[:300]}"
        for error in Draft7Validator(specification).iter_errors(DOCUMENT)
    ]
    assert found == []


def test_the_validation_would_find_a_mistake(specification: dict[str, Any]) -> None:
    wrong = {**DOCUMENT, "operations": {"receiveRequest": {"action": "subscribe"}}}
    assert not Draft7Validator(specification).is_valid(wrong)


@pytest.mark.parametrize("name", list(SCHEMAS))
def test_every_schema_is_a_schema(name: str) -> None:
    Draft7Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize("name", list(DOCUMENT["components"]["messages"]))
def test_every_example_is_what_its_message_describes(name: str) -> None:
    message = DOCUMENT["components"]["messages"][name]
    schema = message["payload"]["$ref"].rpartition("/")[2]
    for example in message["examples"]:
        assert errors(schema, example["payload"]) == []


def test_the_channels_are_keys_of_the_pipeline() -> None:
    pipeline = DOCUMENT["components"]["parameters"]["pipeline"]["default"]
    addresses = {
        name: channel["address"].replace("{pipeline}", pipeline)
        for name, channel in DOCUMENT["channels"].items()
    }
    keys = Keys("sensestream")
    assert addresses == {
        "requests": keys.requests,
        "requestsHigh": keys.requests_high,
        "transcripts": keys.transcripts,
        "live": keys.channel,
        "dead": keys.dead,
    }
    streams = {keys.prefix + kind.pattern for kind in KEY_MAP if kind.type == "stream"}
    assert set(addresses.values()) <= streams


# -- requests -------------------------------------------------------------------------------------


def test_the_fields_of_a_request_and_their_defaults_are_those_that_are_decoded() -> None:
    assert set(SCHEMAS["Request"]["properties"]) == {field.name for field in fields(Request)}
    request = decode_request(ENTRY, {b"audio": AUDIO.encode()})
    assert isinstance(request, Request)
    assert defaults("Request") == {
        "language": request.language,
        "itn": str(int(request.itn)),
        "v": request.v,
    }
    assert SCHEMAS["Request"]["properties"]["language"]["enum"] == list(LANGUAGES)
    assert SCHEMAS["Request"]["maxProperties"] == MAX_FIELDS
    assert SCHEMAS["Request"]["required"] == ["audio"]


def test_a_request_with_every_field_is_what_the_document_describes() -> None:
    request = Request(
        audio=AUDIO,
        id="x",
        language="yue",
        itn=False,
        digest=f"sha256:{'0' * 64}",
        ttl=MAX_TTL,
        deadline=2_524_608_000_000,
        callback_url="https://example.org/hook",
        metadata='{"ticket":7}',
        submitted_at=1_700_000_000_000,
        traceparent="00-1-2-00",
    )
    assert set(request.encode()) == set(SCHEMAS["Request"]["properties"])
    assert errors("Request", request.encode()) == []


@pytest.mark.parametrize(
    ("field", "value", "taken"),
    [
        ("audio", "https://example.org/" + "a" * 1000, True),
        ("audio", "a.wav", False),
        ("audio", "data:" + "a" * 787_451, True),
        ("audio", "data:" + "a" * 787_452, False),
        ("id", "i" * 200, True),
        ("id", "i" * 201, False),
        ("language", "zh", True),
        ("language", "klingon", False),
        ("itn", "0", True),
        ("itn", "yes", False),
        ("digest", f"sha256:{'a' * 64}", True),
        ("digest", f"sha256:{'A' * 64}", False),
        ("digest", f"md5:{'a' * 32}", False),
        ("ttl", "0", True),
        ("ttl", "1.5", False),
        ("ttl", "-1", False),
        ("deadline", "1", True),
        ("deadline", "tomorrow", False),
        ("deadline", "-1", False),
        ("callback_url", "http://h/" + "a" * (MAX_CALLBACK_LENGTH - 9), True),
        ("callback_url", "http://h/" + "a" * (MAX_CALLBACK_LENGTH - 8), False),
        ("callback_url", "ftp://example.org", False),
        ("callback_url", "https://", False),
        ("callback_url", "https:///hook", False),
        ("callback_url", "https://h/a b", False),
        ("metadata", json.dumps("m" * (MAX_METADATA_BYTES - 2)), True),
        ("metadata", json.dumps("m" * (MAX_METADATA_BYTES - 1)), False),
        ("traceparent", "t" * 512, True),
        ("traceparent", "t" * 513, False),
        ("v", "1", True),
        ("v", "2", False),
        ("unknown", "anything", True),
    ],
)
def test_the_document_takes_and_refuses_what_the_code_does(
    field: str, value: str, taken: bool
) -> None:
    entry = {"audio": AUDIO, field: value}
    decoded = decode_request(ENTRY, {name.encode(): text.encode() for name, text in entry.items()})
    assert isinstance(decoded, Request if taken else BadRequest)
    assert validator("Request").is_valid(entry) is taken


# -- outcomes -------------------------------------------------------------------------------------

TRANSCRIPT = Transcript(
    text="Good morning.",
    language="en",
    emotion="NEUTRAL",
    events=("Speech",),
    segments=(Segment(0.1, 0.9, "Good morning.", (Word(0.1, 0.4, "Good"),)),),
    confidence=0.97,
    duration=1.1,
)
COMMON: dict[str, Any] = {
    "id": "x",
    "entry": ENTRY,
    "audio": AUDIO,
    "submitted_at": 1,
    "started_at": 2,
    "finished_at": 3,
    "worker": "host-1",
    "metadata": '{"ticket":[7,null]}',
    "traceparent": "00-1-2-00",
}
COMPLETED = Outcome(
    **COMMON,
    status=Status.COMPLETED,
    warnings=(AudioWarning("audio_truncated", "its last 0.4 s are missing"),),
    cache=CacheUse.MISS,
    digest=f"sha256:{'0' * 64}",
    model="demo",
    attempt=1,
).with_transcript(TRANSCRIPT)
SILENT = Outcome(id="x", entry=ENTRY, status=Status.COMPLETED, cache=CacheUse.HIT).with_transcript(
    Transcript(text="")
)
FAILED = Outcome(
    **COMMON, status=Status.FAILED, error=ErrorCode.AUDIO_NOT_FOUND, message="it is not there"
)


@pytest.mark.parametrize("outcome", [COMPLETED, SILENT, FAILED], ids=["full", "silent", "failed"])
def test_what_is_written_and_announced_is_what_the_document_describes(outcome: Outcome) -> None:
    assert errors("OutcomeEntry", outcome.encode()) == []
    assert errors("Outcome", json.loads(outcome.dumps())) == []


@pytest.mark.parametrize("schema", ["Outcome", "OutcomeEntry"])
def test_the_fields_of_an_outcome_and_their_defaults_are_those_that_are_written(
    schema: str,
) -> None:
    assert set(SCHEMAS[schema]["properties"]) == {field.name for field in fields(Outcome)}
    assert set(COMPLETED.encode()) | set(FAILED.encode()) == set(SCHEMAS[schema]["properties"])
    assert {name: str(value) for name, value in defaults(schema).items()} == {
        "attempt": str(FAILED.attempt),
        "v": FAILED.v,
    }


@pytest.mark.parametrize(
    ("schema", "code"), [("Segment", TRANSCRIPT.segments[0]), ("Word", Word(0.0, 1.0, "a"))]
)
def test_the_fields_of_a_segment_are_those_that_are_written(
    schema: str, code: Segment | Word
) -> None:
    assert set(SCHEMAS[schema]["properties"]) == set(code.to_json())


def test_the_fields_of_a_warning_are_those_that_are_written() -> None:
    assert set(SCHEMAS["Warning"]["properties"]) == set(COMPLETED.warnings[0].to_json())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("warnings", []),
        ("warnings", [{"code": "audio_truncated"}]),
        ("status", "done"),
        ("cache", "warm"),
        ("entry", "first"),
        ("attempt", "1"),
        ("confidence", 1.5),
        ("segments", [{"start": 0.0}]),
        ("error", "not_my_day"),
    ],
)
def test_what_no_worker_writes_is_not_what_the_document_describes(field: str, value: Any) -> None:
    outcome = {**COMPLETED.to_json(), field: value}
    assert not validator("Outcome").is_valid(outcome)


@pytest.mark.parametrize("missing", ["error", "message"])
def test_a_failed_outcome_says_why(missing: str) -> None:
    entry = FAILED.encode()
    del entry[missing]
    assert not validator("OutcomeEntry").is_valid(entry)


def test_the_sets_are_those_of_the_code() -> None:
    assert SCHEMAS["Status"]["enum"] == [status.value for status in Status]
    assert SCHEMAS["CacheUse"]["enum"] == [use.value for use in CacheUse]
    assert SCHEMAS["Error"]["enum"] == [code.value for code in ErrorCode]
    kept = [code.value for code in ErrorCode if code.dead_letter]
    assert SCHEMAS["Error"]["x-dead-letters"] == kept
    lanes = SCHEMAS["DeadLetter"]["properties"]["dead:lane"]["enum"]
    assert lanes == [lane.value for lane in Lane]


def test_the_fields_of_a_dead_letter_are_those_that_the_worker_adds() -> None:
    """Read from its source, because the contract's tests do not need the worker's package."""
    outbox = Path(__file__).parents[2] / "consumer/sensestream_consumer/broker/outbox.py"
    added = set(re.findall(r'"(dead:\w+)"', outbox.read_text("utf-8")))
    assert set(SCHEMAS["DeadLetter"]["properties"]) == added
