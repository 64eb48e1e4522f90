"""The voice activity model: against funasr-onnx where there is a real one, else on a tiny one."""

from __future__ import annotations

import json
import tracemalloc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from sensestream_common.contract.errors import ErrorCode, ModelError, RequestError
from sensestream_consumer.engine.segmentation.fsmn_vad import FsmnVad

from tests.consumer.engine.models import write_cmvn
from tests.consumer.engine.speech import Samples, read_speech
from tests.consumer.engine.vad_models import loudness_graph, write_vad

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # jieba's and numba's, while they are imported
    from funasr_onnx.utils.e2e_vad import E2EVadModel
    from funasr_onnx.vad_bin import Fsmn_vad

SECOND = 16_000
# The two front-ends differ by up to 1e-3, which may tip a frame at the threshold.
TOLERANCE = 160  # samples: one frame


def _noise(seconds: float, loudness: int = 9000, seed: int = 0) -> Samples:
    random = np.random.default_rng(seed)
    return random.integers(-loudness, loudness, round(seconds * SECOND)).astype(np.int16)


def _talk(*parts: tuple[float, bool]) -> Samples:
    return np.concatenate([_noise(seconds, 9000 if loud else 5) for seconds, loud in parts])


@pytest.fixture(scope="module")
def real(data: Path) -> Path:
    folder = data / "fsmn-vad"
    if not folder.is_dir():
        pytest.skip(f"no voice activity model in {data}")
    return folder


@pytest.fixture(scope="module")
def reference(real: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """funasr-onnx's detector on the same files, its configuration in the form that it reads."""
    folder = tmp_path_factory.mktemp("vad")
    config = yaml.safe_load((real / "config.yaml").read_text())
    mended = {
        "frontend_conf": config["WavFrontend"]["frontend_conf"],
        "model_conf": config["vadPostArgs"],
        "encoder_conf": config["FSMN"]["encoder_conf"],
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(mended))
    for name in ("model.onnx", "am.mvn"):
        (folder / name).symlink_to(real / name)
    return Fsmn_vad(str(folder), intra_op_num_threads=1)


def _reference_utterances(reference: Any, wave: NDArray[np.float32]) -> list[list[int]]:
    """As its own call does it, which fails on numpy 2.4 and hides what ONNX Runtime says."""
    features, _ = reference.extract_feat([wave])
    scores, _ = reference.infer([features, *reference.prepare_cache([])])
    detector = E2EVadModel(reference.vad_scorer_config)
    pause = reference.max_end_sil
    said = detector(scores, wave[np.newaxis], is_final=True, max_end_sil=pause, online=False)
    utterances: list[list[int]] = said[0] if said else []
    return utterances


def _assert_same(vad: FsmnVad, reference: Any, samples: Samples) -> int:
    theirs = _reference_utterances(reference, samples.astype(np.float32) / 32768)
    ours = vad.speech(samples)
    assert len(ours) == len(theirs)
    for (start, stop), (start_ms, stop_ms) in zip(ours, theirs, strict=True):
        assert abs(start - start_ms * 16) <= TOLERANCE
        # Ours keeps the last frame's end, theirs drops it.
        assert abs(stop - stop_ms * 16) <= TOLERANCE + (400 if stop == samples.size else 0)
    return len(ours)


def test_real_speech_has_the_utterances_of_the_reference(
    real: Path, reference: Any, data: Path
) -> None:
    vad = FsmnVad.load(real)
    for name in ("jfk.flac", "asr_example_zh.wav"):
        assert _assert_same(vad, reference, read_speech(data / "speech" / name)) >= 1


@pytest.mark.parametrize("seed", range(3))
def test_speech_among_silence_and_noise_has_the_utterances_of_the_reference(
    real: Path, reference: Any, data: Path, seed: int
) -> None:
    random = np.random.default_rng(seed)
    digits = sorted((data / "fsdd").glob("*.wav"))
    parts: list[Samples] = []
    for _ in range(30):
        parts.append(read_speech(digits[int(random.integers(len(digits)))]))
        quiet = random.normal(
            0, random.choice([0, 3, 30, 300]), int(random.uniform(0.05, 3) * SECOND)
        )
        parts.append(quiet.astype(np.int16))
    samples = np.concatenate([*parts, read_speech(data / "speech" / "asr_example_zh.wav")])
    assert samples.size > 40 * SECOND  # more than one run of the graph
    assert _assert_same(FsmnVad.load(real), reference, samples) > 5


def test_loud_stretches_are_found_with_a_margin(tmp_path: Path) -> None:
    vad = FsmnVad.load(write_vad(tmp_path))
    samples = _talk((2, False), (3, True), (4, False), (2, True), (1, False))
    (start, stop), (start2, stop2) = vad.speech(samples)
    assert 1.5 < start / SECOND < 2.01
    assert 5 < stop / SECOND < 5.5
    assert 8.5 < start2 / SECOND < 9.01
    assert 11 < stop2 / SECOND < 11.5


def test_runs_of_the_graph_meet_without_a_seam(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = _talk((1, False), (4, True), (3, False), (2, True), (2, False))
    vad = FsmnVad.load(write_vad(tmp_path))
    whole = vad.speech(samples)
    for rows in (1, 7, 100):
        monkeypatch.setattr("sensestream_consumer.engine.segmentation.fsmn_vad._ROWS_A_RUN", rows)
        assert vad.speech(samples) == whole


def test_silence_and_less_than_a_frame_hold_no_speech(tmp_path: Path) -> None:
    vad = FsmnVad.load(write_vad(tmp_path))
    assert vad.speech(np.zeros(10 * SECOND, np.int16)) == []
    assert vad.speech(_noise(0.02)) == []
    assert vad.speech(np.zeros(0, np.int16)) == []


def test_speech_to_the_end_keeps_the_last_sample(tmp_path: Path) -> None:
    samples = _talk((1, False), (2.0071, True))
    assert FsmnVad.load(write_vad(tmp_path)).speech(samples)[-1][1] == samples.size


def test_a_graph_that_fails_is_an_error_and_no_silence(tmp_path: Path) -> None:
    directory = write_vad(tmp_path)
    onnx.save(loudness_graph(longest=5), directory / "model.onnx")
    with pytest.raises(RequestError, match=r"failed on 1\.98 s") as failed:
        FsmnVad.load(directory).speech(_noise(2))
    assert failed.value.code is ErrorCode.INTERNAL


def test_memory_does_not_grow_with_the_recording(tmp_path: Path) -> None:
    vad = FsmnVad.load(write_vad(tmp_path))

    def peak(seconds: int) -> int:
        samples = np.zeros(seconds * SECOND, np.int16)
        tracemalloc.start()
        vad.speech(samples)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(600) < 1.5 * peak(60)


@pytest.mark.parametrize("missing", ["model.onnx", "am.mvn", "config.yaml"])
def test_a_missing_file_is_named(missing: str, tmp_path: Path) -> None:
    directory = write_vad(tmp_path)
    (directory / missing).unlink()
    with pytest.raises(ModelError, match=rf"has no {missing}: expected an FSMN-VAD model"):
        FsmnVad.load(directory)


def test_a_directory_that_is_none_is_named_with_its_setting(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere is no directory.*SENSESTREAM_VAD_MODEL"):
        FsmnVad.load(tmp_path / "nowhere")


def test_a_quantised_graph_alone_will_do(tmp_path: Path) -> None:
    assert FsmnVad.load(write_vad(tmp_path, "model_quant.onnx")).speech(_noise(3))


def test_another_graph_is_told_by_its_inputs(tmp_path: Path) -> None:
    directory = write_vad(tmp_path)
    onnx.save(loudness_graph(cache="memory"), directory / "model.onnx")
    with pytest.raises(ModelError, match=r"inputs \(speech, memory\).*expected speech and in_c"):
        FsmnVad.load(directory)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("detect_mode", 0),
        ("decibel_thres", -30),
        ("snr_thres", 6.0),
        ("frame_in_ms", 20),
        ("sil_pdf_ids", "0"),
        ("max_end_silence_time", -1),
        ("window_size_ms", 5),
        ("speech_noise_thres", "much"),
    ],
)
def test_a_setting_that_this_detector_has_not_is_named(
    name: str, value: object, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=name):
        FsmnVad.load(write_vad(tmp_path, "model.onnx", **{name: value}))


def test_a_configuration_of_another_model_is_refused(tmp_path: Path) -> None:
    directory = write_vad(tmp_path)
    (directory / "config.yaml").write_text(json.dumps({"frontend_conf": {}}))
    with pytest.raises(ModelError, match=r"config\.yaml of an FSMN-VAD model"):
        FsmnVad.load(directory)
    (directory / "config.yaml").write_text("- 1\n- 2\n")
    with pytest.raises(ModelError, match=r"config\.yaml of an FSMN-VAD model"):
        FsmnVad.load(directory)


def test_whatever_moves_a_boundary_changes_the_identity(tmp_path: Path) -> None:
    before = FsmnVad.load(write_vad(tmp_path / "one")).identity
    assert FsmnVad.load(write_vad(tmp_path / "two")).identity == before
    other = write_vad(tmp_path / "three", max_end_silence_time=600)
    assert FsmnVad.load(other).identity != before
    write_cmvn(tmp_path / "two", scale=0.2, width=400)
    assert FsmnVad.load(tmp_path / "two").identity != before
