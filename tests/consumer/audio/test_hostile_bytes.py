"""Whatever bytes come in: samples or a refusal, in bounded time, and the worker lives on.

The same cases on every machine; `SENSESTREAM_FUZZ=5000` tries that many new ones of each, and
`python -m tests.consumer.audio.fuzz 100000` counts what comes of many.
"""

from __future__ import annotations

import os

import numpy as np
from hypothesis import HealthCheck, example, given, settings, strategies as st
from numpy.typing import NDArray
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_consumer.audio import AudioPolicy, decode

from .fuzz import REFUSALS, recordings
from .recordings import as_fetched

POLICY = AudioPolicy(roots=(), max_seconds=30)
FORMATS = recordings()

# Seconds for one file of some kilobytes on a busy core; the rule is a few milliseconds.
NEW_CASES = int(os.environ.get("SENSESTREAM_FUZZ", "0"))
in_bounded_time = settings(
    deadline=5000,
    max_examples=NEW_CASES or 120,
    derandomize=not NEW_CASES,
    suppress_health_check=[HealthCheck.too_slow],
)


def outcome(data: bytes) -> NDArray[np.int16] | ErrorCode:
    with as_fetched(data) as fetched:
        try:
            return decode(fetched, POLICY)
        except RequestError as error:
            return error.code


def decoded_or_refused(data: bytes) -> None:
    result = outcome(data)
    if isinstance(result, ErrorCode):
        assert result in REFUSALS
    else:
        assert 0 < len(result) <= 31 * 16_000


names = st.sampled_from(sorted(FORMATS))
position = st.floats(0, 1, exclude_max=True)


@in_bounded_time
@given(names, position)
def test_truncated_anywhere(name: str, where: float) -> None:
    data = FORMATS[name]
    decoded_or_refused(data[: int(where * len(data))])


@in_bounded_time
@given(names, st.lists(st.tuples(position, st.binary(min_size=1, max_size=64)), max_size=8))
def test_overwritten_anywhere(name: str, damages: list[tuple[float, bytes]]) -> None:
    data = bytearray(FORMATS[name])
    for where, damage in damages:
        at = int(where * len(data))
        data[at : at + len(damage)] = damage
    decoded_or_refused(bytes(data))


@in_bounded_time
@given(names, st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), min_size=1, max_size=6))
def test_lying_headers(name: str, damages: list[tuple[int, int]]) -> None:
    data = bytearray(FORMATS[name])
    for at, value in damages:
        data[at % len(data)] = value
    decoded_or_refused(bytes(data))


@in_bounded_time
@given(names, names, position, position)
def test_the_head_of_one_on_the_body_of_another(
    one: str, other: str, head: float, body: float
) -> None:
    front, back = FORMATS[one], FORMATS[other]
    decoded_or_refused(front[: int(head * len(front))] + back[int(body * len(back)) :])


@in_bounded_time
@given(names, st.integers(0, 64), st.binary(max_size=2000))
def test_a_known_beginning_and_then_anything(name: str, kept: int, rest: bytes) -> None:
    decoded_or_refused(FORMATS[name][:kept] + rest)


@in_bounded_time
@example(b"ID3\x04\x00\x00\x7f\x7f\x7f\x7f")
@example(b"ID3\x04\x00\x00\x00\x00\x00\x00" * 1000)
@given(st.binary(max_size=3000))
def test_anything(data: bytes) -> None:
    decoded_or_refused(data)
