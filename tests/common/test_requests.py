"""Requests: what is taken, what is refused, and that a bad field spoils its own entry only."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, strategies as st
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.request import (
    LANGUAGES,
    MAX_METADATA_BYTES,
    MAX_TTL,
    BadRequest,
    Request,
    decode_request,
)

ENTRY = "1700000000000-7"

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
requests = st.builds(
    Request,
    audio=st.sampled_from(["file:///a.wav", "https://h/ä?x=1", "redis:{s}:upload:1", "data:,x"]),
    id=st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=200),
    language=st.sampled_from(LANGUAGES),
    itn=st.booleans(),
    digest=st.just("") | st.just("sha256:" + "0af" * 21 + "b"),
    ttl=st.none() | st.integers(0, MAX_TTL),
    deadline=st.none() | st.integers(0, 10**15),
    callback_url=st.sampled_from(["", "http://h/hook", "https://h/hook?x=ü"]),
    metadata=st.just("") | json_values.map(json.dumps),
    submitted_at=st.integers(0, 10**15),
    traceparent=st.sampled_from(["", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"]),
)


def raw(fields: dict[str, str]) -> dict[bytes, bytes]:
    return {name.encode(): value.encode() for name, value in fields.items()}


@given(requests)
def test_a_request_survives_the_stream(request: Request) -> None:
    assert decode_request(ENTRY, raw(request.encode())) == request


def test_one_field_is_a_full_request() -> None:
    request = decode_request(ENTRY, {b"audio": b"file:///data/a.wav"})
    assert request == Request(audio="file:///data/a.wav", id=ENTRY, submitted_at=1_700_000_000_000)


def test_an_empty_value_is_an_absent_field() -> None:
    fields = dict.fromkeys((b"id", b"language", b"itn", b"ttl", b"digest", b"v", b"metadata"), b"")
    assert decode_request(ENTRY, {b"audio": b"file:///a", **fields}) == decode_request(
        ENTRY, {b"audio": b"file:///a"}
    )


def test_unknown_fields_are_ignored_whatever_they_hold() -> None:
    request = decode_request(ENTRY, {b"audio": b"file:///a", b"color": b"\xff", b"\xfe": b"1"})
    assert isinstance(request, Request)


@given(st.dictionaries(
    st.sampled_from([b"audio", b"id", b"language", b"itn", b"digest", b"ttl", b"deadline",
                     b"callback_url", b"metadata", b"submitted_at", b"traceparent", b"v"])
    | st.binary(max_size=12),
    st.binary(max_size=64) | st.text(max_size=64).map(lambda text: text.encode("utf-8", "replace")),
))  # fmt: skip
def test_no_field_makes_decoding_raise(fields: dict[bytes, bytes]) -> None:
    request = decode_request(ENTRY, fields)
    if isinstance(request, BadRequest):
        assert request.error.code in (ErrorCode.BAD_REQUEST, ErrorCode.UNSUPPORTED_LANGUAGE)
        assert request.error.message
        assert 1 <= len(request.id) <= 200
        # What is echoed is fit to be written into an outcome.
        f"{request.id}{request.audio}{request.metadata}{request.traceparent}".encode()
        if request.metadata:
            json.loads(request.metadata)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("audio", "", "audio"),
        ("audio", "a.wav", "file:///data/a.wav"),
        ("audio", "file:///" + "x" * 10**6, "at most"),
        ("id", "a\nb", "printable"),
        ("id", "x" * 201, "1 to 200"),
        ("itn", "true", "1 or 0"),
        ("ttl", "1.5", "whole number"),
        ("ttl", "-1", "from 0 to"),
        ("ttl", str(MAX_TTL + 1), "from 0 to"),
        ("ttl", "9" * 400, "whole number"),
        ("deadline", "tomorrow", "whole number"),
        ("digest", "sha256:ABC", "hexadecimal"),
        ("callback_url", "javascript:alert(1)", "https://"),
        ("callback_url", "http://host:99999/", "port"),
        ("callback_url", "http://host:0/", "port"),
        ("callback_url", "http://host:x/", "port"),
        ("callback_url", "http://xn--/", "host"),
        ("callback_url", "http://a..b/hook", "host"),
        ("callback_url", f"https://{'a' * 64}.org/", "host"),
        ("callback_url", "http://[::1/", "host"),
        ("metadata", "{'a': 1}", "JSON"),
        ("metadata", '{"a": NaN}', "JSON"),
        ("metadata", "[" * 60_000, "JSON"),
        ("metadata", '"' + "x" * MAX_METADATA_BYTES + '"', "at most"),
        ("v", "2", "version"),
        ("traceparent", "x" * 513, "trace context"),
    ],
)
def test_a_wrong_value_is_named_with_the_way_to_mend_it(field: str, value: str, told: str) -> None:
    request = decode_request(ENTRY, raw({"audio": "file:///a", field: value}))
    assert isinstance(request, BadRequest)
    assert request.error.code is ErrorCode.BAD_REQUEST
    assert field in request.error.message
    assert told in request.error.message
    assert len(request.error.message) < 300


def test_an_unknown_language_has_a_code_of_its_own() -> None:
    request = decode_request(ENTRY, raw({"audio": "file:///a", "language": "fr"}))
    assert isinstance(request, BadRequest)
    assert request.error.code is ErrorCode.UNSUPPORTED_LANGUAGE
    assert "zh" in request.error.message


def test_a_known_field_that_is_not_utf_8_spoils_its_own_request_and_keeps_its_id() -> None:
    request = decode_request(ENTRY, {b"audio": b"file:///\xff", b"id": b"mine"})
    assert isinstance(request, BadRequest)
    assert request.id == "mine"
    assert "UTF-8" in request.error.message


def test_messages_hold_no_secrets() -> None:
    fields = {"audio": "file:///a", "callback_url": "ftp://user:secret@host/hook?token=secret"}
    request = decode_request(ENTRY, raw(fields))
    assert isinstance(request, BadRequest)
    assert "secret" not in request.error.message


def test_a_client_learns_of_a_wrong_value_before_anything_is_sent() -> None:
    with pytest.raises(RequestError, match="ttl"):
        Request(audio="file:///a", ttl=-1)
    with pytest.raises(RequestError, match="audio"):
        Request(audio="file:///\udcff")


def test_an_entry_of_thousands_of_fields_is_refused_whole() -> None:
    fields = {f"f{n}".encode(): b"x" for n in range(10_000)}
    request = decode_request(ENTRY, {b"audio": b"file:///a", b"id": b"mine", **fields})
    assert isinstance(request, BadRequest)
    assert "at most 256" in request.error.message
    assert request.id == "mine"
