"""Words, segments and their times."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st
from sensestream_common.contract.transcript import Segment, Word
from sensestream_consumer.engine.decoding.ctc import Token
from sensestream_consumer.engine.decoding.words import RowClock, join_texts, seconds, segments_of
from sensestream_consumer.engine.frontend import FrontendOptions
from sensestream_consumer.engine.model.vocabulary import Vocabulary
from sensestream_consumer.engine.segmentation.cutters import Piece

TOKENS = [
    "<unk>",
    "▁it",
    "'",
    "s",
    "▁a",
    "▁lo",
    "ng",
    ".",
    "你",
    "好",
    "。",
    "▁",
    "7",
    "二",
    "ゼロ",
]
TOKENS += ["▁안", "녕", ",", "3", "!"]
VOCABULARY = Vocabulary(TOKENS)


def _clock(samples: int, start: int = 0) -> RowClock:
    return RowClock.of(Piece(start, start + samples), FrontendOptions())


def _tokens(*tokens: str, step: int = 2) -> list[Token]:
    return [
        Token(TOKENS.index(piece), row * step, row * step, 0.9) for row, piece in enumerate(tokens)
    ]


def _segments(language: str, *tokens: str) -> tuple[Segment, ...]:
    return segments_of(_tokens(*tokens), VOCABULARY, language, _clock(160_000))


def _words(language: str, *tokens: str) -> list[str]:
    return [word.text for part in _segments(language, *tokens) for word in part.words]


def test_words_stand_between_spaces() -> None:
    assert _words("en", "▁it", "'", "s", "▁a", "▁lo", "ng", ".") == ["it's", "a", "long."]
    assert _words("ko", "▁안", "녕", "▁a") == ["안녕", "a"]


@pytest.mark.parametrize(("language", "syllable"), [("en", "7"), ("ko", "녕")])
def test_a_pause_of_a_second_ends_a_word(language: str, syllable: str) -> None:
    spoken = TOKENS.index(syllable)
    rows = [10, 13, 16, 33, 36]  # of 60 ms: the pause before row 33 is 960 ms long, too short
    assert [word.text for word in _spoken(language, spoken, rows)] == [syllable * 5]
    rows = [10, 13, 16, 34, 37]
    first, second = _spoken(language, spoken, rows)
    assert (first.text, second.text) == (syllable * 3, syllable * 2)
    assert second.start - first.end == pytest.approx(1.02)


def test_a_mark_after_a_pause_belongs_to_the_word_before_it() -> None:
    tokens = [Token(TOKENS.index("7"), 1, 1, 0.9), Token(TOKENS.index("."), 40, 40, 0.9)]
    [segment] = segments_of(tokens, VOCABULARY, "en", _clock(160_000))
    assert [word.text for word in segment.words] == ["7."]


def _spoken(language: str, piece: int, rows: list[int]) -> tuple[Word, ...]:
    tokens = [Token(piece, row, row, 0.9) for row in rows]
    [segment] = segments_of(tokens, VOCABULARY, language, _clock(160_000))
    assert segment.text == TOKENS[piece] * len(rows)
    return segment.words


@pytest.mark.parametrize("language", ["zh", "yue", "ja"])
def test_each_character_is_a_word_where_nobody_writes_spaces(language: str) -> None:
    assert _words(language, "你", "好", "。", "二", "7", "3") == ["你", "好。", "二", "7", "3"]
    assert _words(language, "ゼロ", "二") == ["ゼ", "ロ", "二"]


def test_foreign_words_among_characters_stay_whole() -> None:
    assert _words("zh", "你", "▁lo", "ng", "好") == ["你", "long", "好"]
    assert _words("zh", "你", "▁it", "'", "s", "好") == ["你", "it's", "好"]
    assert _words("en", "▁a", "你", "好", "s") == ["a", "你", "好", "s"]


def test_a_lone_space_is_no_word_and_begins_one() -> None:
    assert _words("en", "▁a", "▁", "s", "▁") == ["a", "s"]
    assert _words("zh", "▁", "你", "▁", "ng", "好") == ["你", "ng", "好"]


def test_digits_go_on_with_a_number_where_there_are_spaces() -> None:
    assert _words("en", "▁it", "▁", "7", "3", ",", "▁a") == ["it", "73,", "a"]


def test_a_sentence_is_a_segment() -> None:
    first, second, rest = _segments("en", "▁a", "▁lo", "ng", ".", "▁it", "!", "▁a")
    assert [first.text, second.text, rest.text] == ["a long.", "it!", "a"]
    assert [word.text for word in first.words] == ["a", "long."]
    assert first.start == first.words[0].start
    assert first.end == first.words[-1].end
    assert first.end <= second.start


def test_a_point_inside_a_number_ends_no_sentence() -> None:
    (segment,) = _segments("en", "▁", "7", ".", "3", "▁a")
    assert segment.text == "7.3 a"


def test_nothing_said_gives_no_segments() -> None:
    assert _segments("en") == ()
    assert _segments("en", "▁") == ()


def test_rows_are_sixty_milliseconds_around_the_middle_of_their_frame() -> None:
    (segment,) = segments_of(
        [Token(TOKENS.index("▁a"), 10, 11, 0.9)], VOCABULARY, "en", _clock(160_000)
    )
    assert segment.start == pytest.approx(0.600 - 0.0175, abs=6e-4)
    assert segment.end == pytest.approx(0.720 - 0.0175, abs=6e-4)


def test_times_of_a_later_piece_count_from_the_beginning_of_the_recording() -> None:
    tokens = _tokens("▁a", "▁lo", "ng")
    (early,) = segments_of(tokens, VOCABULARY, "en", _clock(160_000))
    (late,) = segments_of(tokens, VOCABULARY, "en", _clock(160_000, start=320_000))
    assert late.words[1].start == pytest.approx(early.words[1].start + 20.0)
    assert late.start == 20.0  # the first row begins with its piece, not before it


def test_characters_of_one_token_share_its_time() -> None:
    (segment,) = segments_of(
        [Token(TOKENS.index("ゼロ"), 5, 8, 0.9)], VOCABULARY, "ja", _clock(160_000)
    )
    first, second = segment.words
    assert first.end == second.start
    assert second.end - second.start == pytest.approx(0.12, abs=2e-3)


@given(
    runs=st.lists(
        st.tuples(st.integers(1, len(TOKENS) - 1), st.integers(0, 4), st.integers(1, 4)),
        max_size=30,
    ),
    language=st.sampled_from(["zh", "en", "ja", "ko", ""]),
    start=st.integers(0, 10**9),
    tail=st.integers(1, 2000),
)
def test_times_never_go_back_nor_past_the_end(
    runs: list[tuple[int, int, int]], language: str, start: int, tail: int
) -> None:
    tokens, row = [], 0
    for number, gap, rows in runs:
        tokens.append(Token(number, row + gap, row + gap + rows - 1, 0.5))
        row += gap + rows
    samples = max(1, row - 1) * 960 + tail
    segments = segments_of(tokens, VOCABULARY, language, _clock(samples, start))
    words = [word for segment in segments for word in segment.words]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(seconds(start) <= time <= seconds(start + samples) for time in times)
    assert all(round(time, 3) == time for time in times)
    assert all(word.text == word.text.strip() != "" for word in words)
    said = "".join(word.text for word in words)
    assert said == VOCABULARY.text([token.id for token in tokens]).replace(" ", "")


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        (["one two", "three"], "one two three"),
        (["你好", "二"], "你好二"),
        (["你好。", "二"], "你好。二"),
        (["你好", "one"], "你好one"),
        (["안녕", "", "하세요"], "안녕 하세요"),
        ([], ""),
    ],
)
def test_texts_are_joined_as_their_script_is_written(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined
