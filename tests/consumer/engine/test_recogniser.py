"""Samples in, transcript out, on graphs whose answer is known."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError
from pathlib import Path

import numpy as np
import pytest
from sensestream_common.contract.errors import ErrorCode, RequestError
from sensestream_common.contract.transcript import Transcript
from sensestream_consumer.engine import Recogniser

from tests.consumer.engine.models import BPE, TOKENS, TinyModel

SECOND = 16_000
AUDIO = np.zeros(2 * SECOND, np.int16)


def _recogniser(tmp_path: Path, model: TinyModel | None = None) -> Recogniser:
    return Recogniser.load((model or TinyModel()).write(tmp_path / "tiny"), device="cpu")


def _transcript(tmp_path: Path, model: TinyModel, language: str = "auto") -> Transcript:
    return _recogniser(tmp_path, model).recognise(AUDIO, language, itn=True)


@pytest.mark.parametrize("sherpa", [False, True], ids=["funasr", "sherpa-onnx"])
@pytest.mark.parametrize("vocabulary", [BPE, "tokens.json", "tokens.txt"])
@pytest.mark.parametrize("wide_mask", [False, True], ids=["older mask", "newer mask"])
def test_every_kind_of_model_gives_the_same_transcript(
    sherpa: bool, vocabulary: str, wide_mask: bool, tmp_path: Path
) -> None:
    model = TinyModel(sherpa=sherpa, vocabulary=vocabulary, wide_mask=wide_mask)
    recogniser = _recogniser(tmp_path, model)
    transcript = recogniser.recognise(AUDIO, "auto", itn=True)
    assert transcript.text == "hello world"
    assert transcript.language == "en"
    assert transcript.emotion == "NEUTRAL"
    assert transcript.events == ("Speech",)
    assert transcript.duration == 2.0
    (segment,) = transcript.segments
    assert [word.text for word in segment.words] == ["hello", "world"]
    assert recogniser._graph.accepts_padding is wide_mask
    assert recogniser.name == "tiny-fp32"
    assert recogniser.device == "cpu"


@pytest.mark.parametrize("sherpa", [False, True], ids=["funasr", "sherpa-onnx"])
@pytest.mark.parametrize("language", ["zh", "en", "yue", "ja", "ko", "nospeech"])
def test_the_language_asked_for_reaches_the_graph(
    sherpa: bool, language: str, tmp_path: Path
) -> None:
    assert _transcript(tmp_path, TinyModel(sherpa=sherpa), language).language == language


@pytest.mark.parametrize("sherpa", [False, True], ids=["funasr", "sherpa-onnx"])
@pytest.mark.parametrize(("itn", "tag"), [(True, "<|withitn|>"), (False, "<|woitn|>")])
def test_text_normalisation_reaches_the_graph(
    sherpa: bool, itn: bool, tag: str, tmp_path: Path
) -> None:
    recogniser = _recogniser(tmp_path, TinyModel(sherpa=sherpa))
    (result,) = recogniser.recognise_pieces(AUDIO, "auto", itn=itn)
    assert TOKENS[result.tags[3]] == tag


def test_a_token_that_equals_the_tag_before_it_is_not_lost(tmp_path: Path) -> None:
    # Collapsing all rows at once would merge the first CTC row with the ITN row before it.
    model = TinyModel(says=["<|withitn|>", "▁hello"])
    (result,) = _recogniser(tmp_path, model).recognise_pieces(AUDIO, "auto", itn=True)
    assert [TOKENS[token.id] for token in result.tokens] == ["<|withitn|>", "▁hello"]


def test_tags_among_the_spoken_rows_are_no_text(tmp_path: Path) -> None:
    model = TinyModel(says=["<|zh|>", "你", "<|Speech|>", "<s>", "好"])
    assert _transcript(tmp_path, model, "zh").text == "你好"


def test_repeats_are_merged_and_a_blank_between_keeps_both(tmp_path: Path) -> None:
    model = TinyModel(says=["你", "你", "<unk>", "你", "好"])
    assert _transcript(tmp_path, model, "zh").text == "你你好"


def test_nothing_said_is_an_empty_transcript_without_confidence(tmp_path: Path) -> None:
    transcript = _transcript(tmp_path, TinyModel(says=[]))
    assert (transcript.text, transcript.segments, transcript.confidence) == ("", (), None)
    assert transcript.language == "en"


def test_no_speech_gives_no_text_whatever_the_other_rows_say(tmp_path: Path) -> None:
    transcript = _transcript(tmp_path, TinyModel(says=["▁hello"], event="<|BGM|>"), "nospeech")
    assert transcript.language == "nospeech"
    assert (transcript.text, transcript.segments, transcript.confidence) == ("", (), None)
    assert transcript.events == ("BGM",)


def test_what_the_model_cannot_tell_is_left_empty(tmp_path: Path) -> None:
    transcript = _transcript(tmp_path, TinyModel(emotion="<|EMO_UNKNOWN|>", event="<|Event_UNK|>"))
    assert transcript.emotion == ""
    assert transcript.events == ()


def test_a_row_that_holds_no_tag_names_nothing(tmp_path: Path) -> None:
    transcript = _transcript(tmp_path, TinyModel(emotion="<unk>", event="▁hello"))
    assert (transcript.emotion, transcript.events) == ("", ())
    assert transcript.text == "hello world"


def test_confidence_is_the_mean_probability_of_the_rows_that_spoke(tmp_path: Path) -> None:
    logit = 3.0
    expected = np.exp(logit) / (np.exp(logit) + len(TOKENS) - 1)
    transcript = _transcript(tmp_path, TinyModel(says=["▁hello", "▁hello", "s"], logit=logit))
    assert transcript.confidence == pytest.approx(expected, abs=1e-4)


def test_long_audio_is_transcribed_in_pieces_with_their_own_times(tmp_path: Path) -> None:
    recogniser = _recogniser(tmp_path, TinyModel(says=["▁hello", "."]))
    audio = np.zeros(70 * SECOND, np.int16)
    transcript = recogniser.recognise(audio, "auto", itn=True)
    pieces = [result.piece for result in recogniser.recognise_pieces(audio, "auto", itn=True)]
    assert len(pieces) == 3
    assert transcript.text == "hello. hello. hello."
    assert transcript.events == ("Speech",)
    assert transcript.duration == 70.0
    starts = [segment.start for segment in transcript.segments]
    assert starts == [round(piece.start / SECOND, 3) for piece in pieces]


@pytest.mark.parametrize("length", [1, 399, 400, 401, 16_000])
def test_however_short_the_audio_times_stay_inside_it(length: int, tmp_path: Path) -> None:
    transcript = _recogniser(tmp_path).recognise(np.zeros(length, np.int16), "auto", itn=True)
    assert transcript.duration == round(length / SECOND, 3)
    for segment in transcript.segments:
        assert 0 <= segment.start <= segment.end <= transcript.duration


def test_a_language_the_model_does_not_take_is_named_with_the_choices(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"'de' is not one of auto, en, ja, ko") as refused:
        _transcript(tmp_path, TinyModel(), "de")
    assert refused.value.code is ErrorCode.UNSUPPORTED_LANGUAGE


def test_audio_without_samples_is_empty(tmp_path: Path) -> None:
    with pytest.raises(RequestError) as refused:
        _recogniser(tmp_path).recognise(np.zeros(0, np.int16), "auto", itn=True)
    assert refused.value.code is ErrorCode.AUDIO_EMPTY


@pytest.mark.parametrize("samples", [np.zeros(800, np.float32), np.zeros((800, 2), np.int16)])
def test_samples_of_another_shape_or_type_are_a_programming_error(
    samples: np.ndarray[tuple[int, ...], np.dtype[np.int16]], tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=r"expected int16\[n\]"):
        _recogniser(tmp_path).recognise(samples, "auto", itn=True)


def test_a_graph_that_fails_on_a_clip_fails_that_request_only(tmp_path: Path) -> None:
    # The graph looks its language up in a table of 16.
    recogniser = _recogniser(tmp_path, TinyModel(sherpa=True, metadata={"lang_ko": "99"}))
    with pytest.raises(RequestError, match=r"tiny-fp32 failed on 2\.00 s") as failed:
        recogniser.recognise(AUDIO, "ko", itn=True)
    assert failed.value.code is ErrorCode.INTERNAL
    assert recogniser.recognise(AUDIO, "en", itn=True).text == "hello world"


def test_an_abandoned_recording_stops_before_its_next_piece(tmp_path: Path) -> None:
    abandoned = threading.Event()
    abandoned.set()
    with pytest.raises(CancelledError):
        _recogniser(tmp_path).recognise(AUDIO, "auto", itn=True, abandoned=abandoned)


def test_looking_for_the_older_mask_leaves_no_error_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert not _recogniser(tmp_path, TinyModel(wide_mask=False))._graph.accepts_padding
    assert capfd.readouterr().err == ""


def test_threads_share_one_recogniser(tmp_path: Path) -> None:
    recogniser = _recogniser(tmp_path)
    rng = np.random.default_rng(1)
    clips = [rng.integers(-9000, 9000, 4000 + 777 * n).astype(np.int16) for n in range(12)]
    alone = [recogniser.recognise(clip, "auto", itn=True) for clip in clips]
    together: list[Transcript | None] = [None] * len(clips)

    def work(first: int) -> None:
        for number in range(first, len(clips), 4):
            together[number] = recogniser.recognise(clips[number], "auto", itn=True)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert together == alone


def test_warming_up_asks_for_nothing(tmp_path: Path) -> None:
    _recogniser(tmp_path).warm_up()
