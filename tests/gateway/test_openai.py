"""OpenAI's API through OpenAI's own client: every format, and every error."""

from __future__ import annotations

import io
from collections.abc import Iterator

import httpx
import openai
import pytest

from tests.gateway.conftest import CLIPS
from tests.support.gateways import GatewayProcess

CLIP = CLIPS / "en-wideband.wav"
WITH_ITN = "314159"
WITHOUT_ITN = "three one four one five nine"


@pytest.fixture(scope="module")
def sdk(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
        yield client


def test_json_has_the_text_and_the_duration(sdk: openai.OpenAI) -> None:
    with CLIP.open("rb") as file:
        answer = sdk.audio.transcriptions.create(model="whisper-1", file=file, language="en")
    assert answer.text == WITH_ITN
    assert answer.usage is not None
    assert answer.usage.type == "duration"
    assert answer.usage.seconds == pytest.approx(3.18, abs=0.1)


def test_text_is_only_the_text(sdk: openai.OpenAI) -> None:
    answer = sdk.audio.transcriptions.create(model="x", file=CLIP, response_format="text")
    assert answer == WITH_ITN + "\n"


def test_verbose_json_has_segments_and_words_on_request(sdk: openai.OpenAI) -> None:
    answer = sdk.audio.transcriptions.create(
        model="whisper-1",
        file=CLIP,
        response_format="verbose_json",
        timestamp_granularities=["segment", "word"],
        extra_body={"itn": "false"},
    )
    assert answer.text == WITHOUT_ITN
    assert answer.language == "english"
    assert answer.duration == pytest.approx(3.18, abs=0.1)
    assert answer.segments is not None
    assert answer.words is not None
    assert " ".join(segment.text for segment in answer.segments) == WITHOUT_ITN
    assert [word.word for word in answer.words] == WITHOUT_ITN.split()
    times = [time for word in answer.words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert answer.segments[0].avg_logprob < 0

    without = sdk.audio.transcriptions.create(
        model="whisper-1", file=CLIP, response_format="verbose_json"
    )
    assert without.words is None


def test_subtitles_are_srt_and_vtt(sdk: openai.OpenAI) -> None:
    srt = sdk.audio.transcriptions.create(model="x", file=CLIP, response_format="srt")
    assert srt.startswith("1\n00:00:00,")
    assert WITH_ITN in srt
    vtt = sdk.audio.transcriptions.create(model="x", file=CLIP, response_format="vtt")
    assert vtt.startswith("WEBVTT\n\n00:00:00.")
    assert WITH_ITN in vtt


def test_stream_has_deltas_and_then_the_whole_text(sdk: openai.OpenAI) -> None:
    with sdk.audio.transcriptions.create(model="x", file=CLIP, stream=True) as stream:
        events = list(stream)
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert "".join(deltas) == WITH_ITN
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == WITH_ITN


def test_unsupported_options_are_ignored(sdk: openai.OpenAI) -> None:
    answer = sdk.audio.transcriptions.create(
        model="gpt-4o-transcribe",
        file=CLIP,
        prompt="numbers",
        temperature=0.7,
        include=["logprobs"],
        chunking_strategy="auto",
    )
    assert answer.text == WITH_ITN


def test_models_are_those_of_living_workers(sdk: openai.OpenAI) -> None:
    names = [model.id for model in sdk.models.list()]
    assert names == ["demo-int8"]
    assert sdk.models.retrieve("demo-int8").object == "model"
    with pytest.raises(openai.NotFoundError, match="no worker runs the model 'gpt-5'"):
        sdk.models.retrieve("gpt-5")


@pytest.mark.parametrize(
    ("name", "content", "options", "message", "param"),
    [
        ("noise.wav", b"this is no audio", {}, "no decoder reads the audio", "file"),
        ("empty.wav", b"", {}, "the file is empty", "file"),
        ("a.wav", b"RIFF", {"language": "tlh"}, "'tlh' is not one of auto, zh", "language"),
        ("a.wav", b"RIFF", {"response_format": "docx"}, "'docx' is not one", "response_format"),
        (
            "a.wav",
            b"RIFF",
            {"timestamp_granularities": ["syllable"]},
            "'syllable' is not one of",
            "timestamp_granularities",
        ),
    ],
)
def test_invalid_request_is_refused_with_a_fix(
    sdk: openai.OpenAI,
    name: str,
    content: bytes,
    options: dict[str, object],
    message: str,
    param: str,
) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        sdk.audio.transcriptions.create(  # type: ignore[call-overload]
            model="x", file=(name, io.BytesIO(content)), **options
        )
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"


def test_failure_of_a_streamed_call_is_an_error(sdk: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no decoder reads"):
        sdk.audio.transcriptions.create(model="x", file=("a.wav", b"no audio either"), stream=True)


def test_missing_file_or_form_is_refused(http: httpx.Client) -> None:
    missing = http.post("/v1/audio/transcriptions", files={"model": (None, "x")})
    assert missing.status_code == 400
    assert "the file is missing" in missing.json()["error"]["message"]
    plain = http.post("/v1/audio/transcriptions", json={"file": "x"})
    assert plain.status_code == 415
    assert plain.json()["error"]["type"] == "invalid_request_error"
