"""A directory that is no SenseVoice model is refused, and the refusal says what is wrong."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import onnx
import pytest
from sensestream_common.contract.errors import ModelError
from sensestream_consumer.engine import Recogniser, resolve_model

from tests.consumer.engine.models import TOKENS, TinyModel, write_cmvn, write_config


def _refusal(directory: Path, device: str = "cpu") -> str:
    with pytest.raises(ModelError) as refused:
        Recogniser.load(directory, device=device)
    message = str(refused.value)
    assert str(directory) in message
    return message


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("model.onnx", "model.int8.onnx"),
        ("tokens.json", "tokens.txt"),
        ("config.yaml", "configuration"),
        ("am.mvn", "statistics"),
    ],
)
def test_a_missing_file_is_named_with_what_was_expected(
    file: str, expected: str, tmp_path: Path
) -> None:
    directory = TinyModel().write(tmp_path)
    (directory / file).unlink()
    message = _refusal(directory)
    assert file.partition(".")[0] in message
    assert expected in message


def test_a_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    assert "no directory" in _refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b"no graph", b"\x08\x07\x12"])
def test_a_file_that_is_no_graph_is_named(content: bytes, tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    (directory / "model.onnx").write_bytes(content)
    assert "no graph that ONNX Runtime can load" in _refusal(directory)


def test_a_pointer_of_git_lfs_is_told_from_a_graph(tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    (directory / "model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid 1\n")
    assert "git lfs pull" in _refusal(directory)


def test_a_foreign_graph_is_refused_with_the_inputs_it_has(tmp_path: Path) -> None:
    names = ("speech", "speech_lengths", "hotwords", "style", "logits")
    message = _refusal(TinyModel(names=names).write(tmp_path))
    assert "inputs (speech, speech_lengths, hotwords, style)" in message
    assert "(speech, speech_lengths, language, textnorm)" in message
    assert "(x, x_length, language, text_norm)" in message


def test_a_graph_for_other_features_is_refused(tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    write_config(directory, lfr_m=5)
    message = _refusal(directory)
    assert "400" in message


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    directory = TinyModel(tokens=[*TOKENS, "▁extra"]).write(tmp_path)
    (directory / "tokens.json").write_text('["a", "b"]')
    message = _refusal(directory)
    assert "2 tokens" in message
    assert str(len(TOKENS) + 1) in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("fs", 8000),
        ("window", "povey"),
        ("snip_edges", False),
        ("lfr_m", 0),
        ("n_mels", "80"),
        ("frame_shift", True),
        ("vtln", 1.1),
    ],
)
def test_a_front_end_this_is_not_is_refused_by_option_and_value(
    name: str, value: object, tmp_path: Path
) -> None:
    directory = TinyModel().write(tmp_path)
    write_config(directory, **{name: value})
    assert f"frontend_conf.{name}" in _refusal(directory)


@pytest.mark.parametrize(
    "content", ["", "a: [", "[1, 2]", "frontend_conf: 3", "a: !!python/object/apply:os.getcwd []"]
)
def test_a_configuration_that_is_none_is_refused(content: str, tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    (directory / "config.yaml").write_text(content)
    assert "config.yaml" in _refusal(directory)


def test_dither_in_the_configuration_changes_nothing(tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    plain = Recogniser.load(directory, device="cpu").fingerprint
    write_config(directory, dither=1.0)
    assert Recogniser.load(directory, device="cpu").fingerprint == plain


@pytest.mark.parametrize("content", ["", "<Nnet>\n", "\ufeff[ 1 2 ]"])
def test_statistics_that_are_none_are_refused(content: str, tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    (directory / "am.mvn").write_text(content, encoding="utf-8")
    assert "am.mvn has no <AddShift>" in _refusal(directory)


@pytest.mark.parametrize(
    ("number", "complaint"), [("1.5 ]", "560"), ("nan", "finite"), ("x", "no number")]
)
def test_statistics_of_another_kind_are_refused(
    number: str, complaint: str, tmp_path: Path
) -> None:
    directory = TinyModel().write(tmp_path)
    text = (directory / "am.mvn").read_text()
    (directory / "am.mvn").write_text(text.replace("0.15", number, 1))
    assert complaint in _refusal(directory)


@pytest.mark.parametrize("name", ["neg_mean", "lang_zh", "with_itn", "lfr_window_size"])
def test_sherpa_metadata_that_is_missing_is_named(name: str, tmp_path: Path) -> None:
    directory = TinyModel(sherpa=True).write(tmp_path)
    model = onnx.load(directory / "model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key != name]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, directory / "model.onnx")
    assert f"no {name} in its metadata" in _refusal(directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("lang_zh", "three"),
        ("lfr_window_size", "0"),
        ("normalize_samples", "1"),
        ("neg_mean", "1,2"),
        ("inv_stddev", "1,x"),
    ],
)
def test_sherpa_metadata_of_another_kind_is_named(name: str, value: str, tmp_path: Path) -> None:
    directory = TinyModel(sherpa=True, metadata={name: value}).write(tmp_path)
    assert f"metadata {name}" in _refusal(directory)


def test_sherpa_models_need_no_files_beside_graph_and_vocabulary(tmp_path: Path) -> None:
    directory = TinyModel(sherpa=True).write(tmp_path)
    assert sorted(path.name for path in directory.iterdir()) == ["model.onnx", "tokens.json"]
    Recogniser.load(directory, device="cpu")


def test_the_statistics_matter_to_the_features_of_both_contracts(tmp_path: Path) -> None:
    funasr = TinyModel().write(tmp_path / "funasr")
    before = Recogniser.load(funasr, device="cpu").fingerprint
    write_cmvn(funasr, shift=-9.0)
    assert Recogniser.load(funasr, device="cpu").fingerprint != before


@pytest.mark.parametrize("device", ["gpu", "cuda:", "cuda:-1", "CPU", ""])
def test_a_device_nobody_knows_is_refused_with_the_choices(device: str, tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    with pytest.raises(ModelError, match="use auto, cpu, cuda or cuda:<number>"):
        Recogniser.load(directory, device=device)


def test_a_name_that_is_no_model_tells_the_choices(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.touch()
    for name in ["", " ", "iic/SenseVoiceSmall-onnx", "no/such/directory", str(file)]:
        with pytest.raises(ModelError, match="SENSESTREAM_ALLOW_DOWNLOAD=1"):
            resolve_model(name, allow_download=False)


def test_a_path_that_does_not_exist_is_never_looked_up_elsewhere() -> None:
    for name in ["/srv/models/sensevoice", "../sensevoice", "a/b/c"]:
        with pytest.raises(ModelError, match="no model directory on this machine"):
            resolve_model(name, allow_download=True)


@pytest.mark.skipif(importlib.util.find_spec("modelscope") is not None, reason="it is installed")
def test_a_hub_name_without_the_hub_extra_tells_what_to_install() -> None:
    with pytest.raises(ModelError, match=r"sensestream-consumer\[hub\]"):
        resolve_model("iic/SenseVoiceSmall-onnx", allow_download=True)


def test_a_directory_is_itself_and_demo_is_the_embedded_one(tmp_path: Path) -> None:
    assert resolve_model(str(tmp_path), allow_download=False) == tmp_path
    assert resolve_model("demo", allow_download=False).name == "demo"
