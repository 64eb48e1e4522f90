"""Tag rows and CTC rows."""

from __future__ import annotations

from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, strategies as st
from sensestream_consumer.engine.decoding.ctc import TAG_ROWS, Rows, collapse, rows_of

ids = st.lists(st.integers(0, 4), max_size=40)


def _rows(spoken: list[int], tags: tuple[int, ...] = (9, 9, 9, 9)) -> Rows:
    numbers = np.array([*tags, *spoken], np.int64)
    return Rows(numbers, np.where(numbers == 0, 0.0, 0.5).astype(np.float32))


@given(ids)
def test_repeats_are_merged_and_blanks_dropped(spoken: list[int]) -> None:
    expected = [number for number, _ in groupby(spoken) if number != 0]
    assert [token.id for token in collapse(_rows(spoken))] == expected


@given(ids)
def test_tokens_tell_the_very_rows_that_said_them(spoken: list[int]) -> None:
    rebuilt = [0] * len(spoken)
    end = -1
    for token in collapse(_rows(spoken)):
        assert end < token.first <= token.last
        end = token.last
        rebuilt[token.first : token.last + 1] = [token.id] * token.rows
    assert rebuilt == spoken


@given(ids, st.tuples(*[st.integers(0, 4)] * TAG_ROWS))
def test_tag_rows_never_change_the_tokens(spoken: list[int], tags: tuple[int, ...]) -> None:
    assert collapse(_rows(spoken, tags)) == collapse(_rows(spoken))


def test_probabilities_are_the_softmax_of_the_best_piece() -> None:
    logits = np.array(
        [[0, 1, 2], [5, 1, 1], [1, 3, 1], [0, 0, 9], [2, 8, 1], [2, 7, 3], [9, 0, 0]], np.float32
    )
    rows = rows_of(logits)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert rows.ids.tolist() == [2, 0, 1, 2, 1, 1, 0]
    spoken = rows.ids != 0
    assert rows.probabilities[spoken] == pytest.approx(softmax.max(axis=1)[spoken], abs=1e-6)
    (token,) = collapse(rows)
    assert token.probability == pytest.approx(softmax[4:6, 1].mean(), abs=1e-6)


def test_large_logits_give_a_probability_and_no_overflow() -> None:
    logits = np.zeros((5, 3), np.float32)
    logits[:, 1] = 3e4
    assert rows_of(logits).probabilities.tolist() == [1.0] * 5


def test_finding_the_best_pieces_leaves_the_logits_alone() -> None:
    logits = np.random.default_rng(0).normal(size=(9, 7)).astype(np.float32)
    before = logits.copy()
    rows_of(logits)
    assert np.array_equal(logits, before)
