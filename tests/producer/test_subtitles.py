"""Subtitles: valid files whatever was said, and nothing of it lost."""

from __future__ import annotations

import html
import itertools
import re
import unicodedata

from hypothesis import given, settings, strategies as st
from sensestream_common.contract.outcome import Outcome, Status
from sensestream_common.contract.transcript import Segment, Word
from sensestream_producer.outcomes.subtitles import (
    MAX_COLUMNS,
    MAX_LINES,
    MAX_SECONDS,
    cues,
    srt,
    vtt,
)

SRT_CUE = re.compile(r"\d+\n(\d\d+:\d\d:\d\d,\d{3}) --> (\d\d+:\d\d:\d\d,\d{3})\n((?:.+\n)+)\n")
VTT_CUE = re.compile(r"(\d\d+:\d\d:\d\d\.\d{3}) --> (\d\d+:\d\d:\d\d\.\d{3})\n((?:.+\n)+)\n")


def outcome(*segments: Segment, text: str = "", duration: float = 0.0) -> Outcome:
    return Outcome(
        id="x",
        entry="1-0",
        status=Status.COMPLETED,
        segments=segments,
        text=text,
        duration=duration,
    )


def squeezed(text: str) -> str:
    return "".join(text.split())


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in line)


printable = st.characters(blacklist_categories=("C", "Z"), max_codepoint=0x1FFFF)
words = st.lists(
    st.text(
        st.one_of(st.sampled_from("abcdefghij,.<>&-三一四語"), printable), min_size=1, max_size=60
    ),
    min_size=1,
    max_size=40,
)


@st.composite
def segment_lists(draw: st.DrawFn) -> list[Segment]:
    found, clock = [], 0.0
    for parts in draw(st.lists(words, max_size=3)):
        start = clock + draw(st.floats(0, 5000))
        timed = []
        clock = start
        for part in parts:
            begin = clock
            clock += draw(st.floats(0, 3))
            timed.append(Word(begin, clock, part))
        keep = draw(st.booleans())
        found.append(Segment(start, clock, " ".join(parts), tuple(timed) if keep else ()))
    return found


@settings(max_examples=120, deadline=None)
@given(segment_lists())
def test_every_word_is_shown_once_and_in_order(segments: list[Segment]) -> None:
    shown = cues(outcome(*segments))
    said = squeezed("".join(segment.text for segment in segments))
    assert squeezed("".join(line for cue in shown for line in cue.lines)) == said
    short = [segment for segment in segments if columns(segment.text) <= MAX_COLUMNS]
    whole = [segment.text for segment in short if segment.end - segment.start <= MAX_SECONDS]
    assert set(whole) <= {"".join(cue.lines) for cue in shown}, "a short segment is left alone"
    for cue in shown:
        assert 1 <= len(cue.lines) <= MAX_LINES
        assert cue.start < cue.end <= cue.start + MAX_SECONDS + 0.0011
        assert all(0 < columns(line) <= MAX_COLUMNS for line in cue.lines)
    for first, second in itertools.pairwise(shown):
        assert second.start >= first.start
        assert second.start >= first.end - 0.0011


@settings(max_examples=120, deadline=None)
@given(segment_lists())
def test_the_files_are_what_their_formats_say(segments: list[Segment]) -> None:
    whole = outcome(*segments)
    shown = cues(whole)
    srt_text, vtt_text = srt(whole), vtt(whole)
    assert len(SRT_CUE.findall(srt_text)) == len(shown)
    assert SRT_CUE.sub("", srt_text) == ""
    head, _, body = vtt_text.partition("\n\n")
    assert head == "WEBVTT"
    found = VTT_CUE.findall(body)
    assert VTT_CUE.sub("", body) == ""
    for (_, _, text), cue in zip(found, shown, strict=True):
        assert "-->" not in text
        assert "<" not in text
        assert html.unescape(text).splitlines() == "\n".join(cue.lines).splitlines()


def test_a_segment_is_a_cue_with_its_own_times() -> None:
    text = srt(outcome(Segment(0.5, 2.25, "three one four"), Segment(3661.0005, 3662, "再見")))
    assert text == (
        "1\n00:00:00,500 --> 00:00:02,250\nthree one four\n\n"
        "2\n01:01:01,000 --> 01:01:02,000\n再見\n\n"
    )


def test_markup_in_speech_is_shown_and_not_obeyed() -> None:
    text = vtt(outcome(Segment(0, 1, "a <b> & c --> d")))
    assert text == ("WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na &lt;b&gt; &amp; c --&gt; d\n\n")


def test_a_long_segment_is_cut_between_words_at_their_times() -> None:
    spoken = tuple(Word(float(n), n + 0.5, f"word{n}") for n in range(12))
    shown = cues(outcome(Segment(0, 12, " ".join(word.text for word in spoken), spoken)))
    assert [(cue.start, cue.end) for cue in shown] == [(0.0, 6.5), (7.0, 12.0)]
    assert all(cue.end - cue.start <= MAX_SECONDS for cue in shown)
    assert shown[1].lines == ("word7 word8 word9 word10 word11",)


def spans(*segments: Segment) -> list[tuple[float, float, str]]:
    return [
        (round(cue.start, 3), round(cue.end, 3), "|".join(cue.lines))
        for cue in cues(outcome(*segments))
    ]


def test_a_run_of_digits_that_lasts_too_long_is_cut_in_proportion_to_its_length() -> None:
    digits = "3141592653" * 2
    assert spans(Segment(0, 20, digits, (Word(0, 20, digits),))) == [
        (0.0, 7.0, "3141592"), (7.0, 14.0, "6533141"), (14.0, 20.0, "592653"),
    ]  # fmt: skip


def test_a_pause_inside_a_run_of_digits_is_where_it_is_cut() -> None:
    spoken = (Word(1, 4, "314"), Word(6, 9, "159"))
    assert spans(Segment(1, 9, "314159", spoken)) == [(1.0, 4.0, "314"), (6.0, 9.0, "159")]


def test_korean_without_spaces_is_cut_between_syllables() -> None:
    text = "안" * 50
    shown = spans(Segment(0, 10, text, (Word(0, 10, text),)))
    assert [lines for *_, lines in shown] == ["|".join(["안" * 21, "안" * 14]), "안" * 15]
    assert [(start, end) for start, end, _ in shown] == [(0.0, 7.0), (7.0, 10.0)]


def test_a_word_longer_than_two_lines_is_cut_where_the_second_is_full() -> None:
    text = "x" * 100
    assert spans(Segment(0, 5, text, (Word(0, 5, text),))) == [
        (0.0, 4.2, "|".join(["x" * 42] * 2)), (4.2, 5.0, "x" * 16),
    ]  # fmt: skip


def test_a_segment_without_words_that_lasts_too_long_is_cut() -> None:
    shown = spans(Segment(0, 30, "one two three"))
    assert "".join(lines for *_, lines in shown) == "onetwothree"
    assert all(end - start <= MAX_SECONDS for start, end, _ in shown)


def test_text_of_a_whole_recording_without_segments_stands_no_longer_than_a_cue_may() -> None:
    shown = cues(outcome(text="five", duration=60.0))
    assert squeezed("".join(line for cue in shown for line in cue.lines)) == "five"
    assert all(cue.end - cue.start <= MAX_SECONDS for cue in shown)


def test_lines_of_wide_characters_are_half_as_long_and_do_not_begin_with_a_mark() -> None:
    shown = cues(outcome(Segment(0, 5, "一" * 21 + "。" + "二" * 5)))
    assert all(columns(line) <= MAX_COLUMNS for cue in shown for line in cue.lines)
    assert not any(line.startswith("。") for cue in shown for line in cue.lines)


def test_text_without_segments_is_one_cue_over_the_whole() -> None:
    assert srt(outcome(text="hello", duration=2.0)).startswith("1\n00:00:00,000 --> 00:00:02,000\n")


def test_silence_gives_a_file_without_cues() -> None:
    assert srt(outcome()) == ""
    assert vtt(outcome()) == "WEBVTT\n\n"
