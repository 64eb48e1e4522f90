"""How references are told apart, and spoken of without their secrets."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.audio import parse_reference


@pytest.mark.parametrize(
    ("uri", "scheme", "display"),
    [
        ("file:///data/a.wav", "file", "file:///data/a.wav"),
        ("FILE:///data/a.wav", "file", "file:///data/a.wav"),
        ("http://example.org/a.wav", "http", "http://example.org/a.wav"),
        ("https://u:p@example.org:8443/a?token=t#f", "https", "https://example.org:8443/a"),
        ("redis:{sensestream}:upload:1", "redis", "redis:{sensestream}:upload:1"),
        ("data:audio/wav;base64,UklGRg==", "data", "data:audio/wav"),
        ("data:,abc", "data", "data:"),
        ("redis://user:pass@host/0", "redis", "redis://host/0"),
        ("file://user:pass@host/a@b.wav", "file", "file://host/a@b.wav"),
        ("file:///data/two\nlines\x00.wav", "file", "file:///data/two%0Alines%00.wav"),
        ("http://user:pass@host:port/a", "http", "http://…"),
        ("http://user:pa/ss@example.org/", "http", "http://…"),
        ("http://[::1]:80/a b?q=pass", "http", "http://[::1]:80/a b"),
        ("http://host?pass@example.org/", "http", "http://host"),
        ("s3://bucket/a b%20c#1.wav", "s3", "s3://bucket/a b%20c"),
        ("s3://key:pass/word@bucket/a.wav?X-Amz-Signature=pass", "s3", "s3://…"),
        ("s3://key:pass@bucket/a.wav?X-Amz-Signature=pass", "s3", "s3://bucket/a.wav"),
        ("s3:pass", "s3", "s3:…"),
    ],
)
def test_a_reference_is_displayed_without_user_and_query(
    uri: str, scheme: str, display: str
) -> None:
    reference = parse_reference(uri)
    assert (reference.scheme, reference.display, str(reference)) == (scheme, display, display)
    assert "pass" not in repr(reference)


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "a.wav",
        "/data/a.wav",
        "C:\\a.wav",
        "ftp://example.org/a?secret",
        "gs://key:secret@bucket/a",
        "//user:secret@host/a",
        "user:secret@host/a",
        "example.org/a?token=secret",
    ],
)
def test_another_scheme_is_refused_and_those_taken_are_named(uri: str) -> None:
    with pytest.raises(
        RequestError, match="file:///path, http://…, https://…, s3://bucket/key, redis:<key>"
    ) as e:
        parse_reference(uri)
    assert e.value.code is ErrorCode.BAD_REQUEST
    assert "secret" not in e.value.message


def test_a_further_scheme_can_be_added() -> None:
    assert parse_reference("gs://bucket/a", ["gs"]).display == "gs://bucket/a"


def test_an_endless_reference_is_refused() -> None:
    with pytest.raises(RequestError, match="10007 characters") as caught:
        parse_reference("http://" + "a" * 10_000)
    assert caught.value.code is ErrorCode.BAD_REQUEST


@given(st.sampled_from(["", "http://", "https://u:p@", "file:", "data:", "redis:"]), st.text())
def test_any_text_is_a_reference_or_a_refusal_on_one_short_line(start: str, rest: str) -> None:
    try:
        shown = parse_reference(start + rest).display
    except RequestError as error:
        shown = error.message
    assert len(shown) < 2000
    assert shown.isprintable()
