"""The user code that the type checker accepts does what it says, on the pipeline in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
from sensestream_producer import ErrorCode

from tests.typing import user_code


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("good morning", "good morning"),
        (ErrorCode.AUDIO_EMPTY, "audio_empty: the scripted recogniser answers audio_empty"),
    ],
)
def test_the_code_that_type_checks_runs(answer: str | ErrorCode, text: str) -> None:
    pipeline = user_code.for_tests(["RIFF"])
    pipeline.answer(Path(user_code.__file__), answer)
    assert user_code.as_the_real_ones(pipeline) == [text, text]


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SENSESTREAM_PIPELINE", "calls")
    with user_code.settings() as client:
        assert client.keys.name == "calls"
