"""An int8 graph is converted for the processor, and never says anything else for it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.engine.graph import opening
from sensestream_consumer.engine.graph.conversion import convert as conversion
from sensestream_consumer.engine.graph.cpu_features import (
    multiplies_signed_exactly,
    processor_features,
)
from sensestream_consumer.engine.graph.graph import Graph
from sensestream_consumer.engine.graph.int8 import example_features, open_cpu_graph
from sensestream_consumer.engine.model.directory import find_model_files
from sensestream_consumer.engine.model.fingerprint import inspect_graph
from structlog.testing import capture_logs

from training.full_size import speech_like

VNNI = frozenset({"avx512_vnni"})
AVX2 = frozenset({"avx2", "avx512f", "sse4_1"})

exact = pytest.mark.skipif(
    not multiplies_signed_exactly(processor_features()),
    reason="this processor has no VNNI or Arm dot product: signed products may saturate on it",
)
# What any processor can run, and signed weights where this one can.
FORMS = [pytest.param(True, marks=exact, id="signed"), pytest.param(False, id="unsigned")]


def _open(directory: Path, cache: Path, features: frozenset[str] | None = None) -> Graph:
    files = find_model_files(directory, prefer_int8=True)
    inspected = inspect_graph(files.graph)
    return open_cpu_graph(files, inspected, threads=1, cache=cache, features=features)


def _untouched(directory: Path) -> Graph:
    files = find_model_files(directory, prefer_int8=True)
    return Graph.on_cpu(files, threads=1)


def _logits(graph: Graph, rows: int, language: int = 0, textnorm: int = 14) -> Any:
    features = example_features(rows, 560)[np.newaxis]
    return graph.run(features, [rows], [language], [textnorm])


def _entry(cache: Path) -> Path:
    (folder,) = [path for path in (cache / "graphs").iterdir() if path.is_dir()]
    return folder


def _events(logs: Any) -> list[str]:
    """What was told, but for what every start tells on a processor without VNNI."""
    return [entry["event"] for entry in logs if entry["event"] != "int8_signed_weights_disabled"]


@pytest.mark.parametrize("signed", FORMS)
@pytest.mark.parametrize("kind", ["tiny", "older", "sherpa"])
def test_every_logit_is_that_of_the_untouched_graph_to_the_bit(
    kind: str, signed: bool, tiny: Path, older: Path, tmp_path: Path
) -> None:
    directory = {"tiny": tiny, "older": older, "sherpa": tiny / "sherpa"}[kind]
    converted = _open(directory, tmp_path, VNNI if signed else AVX2)
    untouched = _untouched(directory)
    assert converted.single_clip
    for rows in (1, 2, 7, 40, 167, 500):
        assert np.array_equal(_logits(converted, rows), _logits(untouched, rows)), rows
    for language in (3, 4, 7, 11, 12, 13):
        ours, theirs = (_logits(graph, 30, language, 15) for graph in (converted, untouched))
        assert np.array_equal(ours, theirs), language


def test_a_recogniser_gives_the_same_transcript_from_either_graph(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    converted = Recogniser.load(tiny, device="cpu", cache=tmp_path)
    monkeypatch.setattr(opening, "open_cpu_graph", lambda *_, **__: _untouched(tiny))
    untouched = Recogniser.load(tiny, device="cpu", cache=tmp_path)
    assert converted._graph.single_clip
    assert not untouched._graph.single_clip
    assert converted.fingerprint == untouched.fingerprint
    for seed in range(5):
        samples = speech_like(1.0 + seed, seed=seed)
        ours = converted.recognise(samples, "auto", itn=True)
        assert ours.text
        assert ours == untouched.recognise(samples, "auto", itn=True)


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
def test_masks_shapes_and_copies_are_gone_and_every_weight_is_as_asked(
    signed: bool, tiny: Path, tmp_path: Path
) -> None:
    untouched = _untouched(tiny)
    target = tmp_path / "graph.onnx"
    found = conversion.convert_graph(
        tiny / "model_quant.onnx",
        target,
        lengths="speech_lengths",
        feed=lambda rows: untouched.feed_one(example_features(rows, 560)),
        signed=signed,
        single_clip=True,
    )
    # Three blocks: two masks in the memory, two in the attention and four shapes in each.
    weights = {"weights": 3 * 4 + 1} if signed else {}
    assert found == {"masks and shapes": 3 * 8, "attention": 3, **weights}
    model = onnx.load(str(target), load_external_data=False)
    operators = [node.op_type for node in model.graph.node]
    assert {"Where", "MatMul", "Equal", "Less"}.isdisjoint(operators)
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    integers = {onnx.TensorProto.INT8, onnx.TensorProto.UINT8}
    assert kinds & integers == {onnx.TensorProto.INT8 if signed else onnx.TensorProto.UINT8}


def test_the_next_start_takes_it_from_the_cache_without_loading_onnx(
    tiny: Path, tmp_path: Path
) -> None:
    expected = _logits(_open(tiny, tmp_path), 12)
    script = """
import json, sys
from pathlib import Path
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.engine.graph.int8 import example_features
graph = Recogniser.load(Path(sys.argv[1]), device="cpu", cache=Path(sys.argv[2]))._graph
logits = graph.run(example_features(12, 560)[None], [12], [0], [14])
print(json.dumps([graph.single_clip, "onnx" in sys.modules, logits[0, -1].tolist()]))
"""
    command = [sys.executable, "-c", script, str(tiny), str(tmp_path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    single_clip, imported, row = json.loads(done.stdout.splitlines()[-1])
    assert single_clip
    assert not imported
    assert np.array_equal(np.array(row, np.float32), expected[0, -1])
    assert "converting_model" not in done.stdout + done.stderr


def _zero_weights(folder: Path) -> None:
    path = folder / "graph.onnx.data"
    path.write_bytes(bytes(path.stat().st_size))


def _cut_weights(folder: Path) -> None:
    path = folder / "graph.onnx.data"
    path.write_bytes(path.read_bytes()[:-5000])


def _spoil_graph(folder: Path) -> None:
    path = folder / "graph.onnx"
    path.write_bytes(b"\xff" * path.stat().st_size)


def _drop_graph(folder: Path) -> None:
    (folder / "graph.onnx").unlink()


def _spoil_facts(folder: Path) -> None:
    (folder / "facts.json").write_text("{")


@pytest.mark.parametrize(
    "damage", [_zero_weights, _cut_weights, _spoil_graph, _drop_graph, _spoil_facts]
)
def test_a_damaged_entry_is_made_anew(damage: Any, tiny: Path, tmp_path: Path) -> None:
    _open(tiny, tmp_path)
    damage(_entry(tmp_path))
    with capture_logs() as logs:
        graph = _open(tiny, tmp_path)
    assert "converting_model" in _events(logs)
    assert np.array_equal(_logits(graph, 9), _logits(_untouched(tiny), 9))
    with capture_logs() as logs:
        assert _open(tiny, tmp_path).single_clip
    assert _events(logs) == []


def test_two_workers_that_start_at_once_convert_it_once(tiny: Path, tmp_path: Path) -> None:
    script = """
import sys
import tempfile
from pathlib import Path
from sensestream_consumer.engine import Recogniser
graph = Recogniser.load(Path(sys.argv[1]), device="cpu", cache=Path(sys.argv[2]))._graph
print("single_clip", graph.single_clip)
"""
    command = [sys.executable, "-c", script, str(tiny), str(tmp_path)]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert all("single_clip True" in output for output in outputs)
    assert sum("converting_model" in output for output in outputs) == 1
    assert _entry(tmp_path).is_dir()


def test_where_the_cache_cannot_be_written_the_model_is_converted_all_the_same(
    tiny: Path, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with capture_logs() as logs:
        graph = _open(tiny, blocked)
    assert graph.single_clip
    assert "model_cache_not_writable" in _events(logs)
    assert np.array_equal(_logits(graph, 9), _logits(_untouched(tiny), 9))


def test_without_any_folder_to_write_the_model_works_as_it_is(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    with capture_logs() as logs:
        graph = _open(tiny, blocked)
    assert not graph.single_clip
    assert _events(logs) == ["model_cache_not_writable", "model_left_unconverted"]
    assert np.array_equal(_logits(graph, 9), _logits(_untouched(tiny), 9))


@pytest.mark.parametrize("features", [frozenset(), AVX2])
def test_without_exact_signed_products_int8_signed_weights_disabled_and_the_log_says_so(
    features: frozenset[str], tiny: Path, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        assert _open(tiny, tmp_path, features).single_clip
    assert [entry["event"] for entry in logs][:2] == [
        "int8_signed_weights_disabled",
        "converting_model",
    ]
    assert "without VNNI" in logs[0]["reason"]
    assert logs[1]["signed"] is False
    model = onnx.load(str(_entry(tmp_path) / "graph.onnx"), load_external_data=False)
    kinds = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    assert onnx.TensorProto.INT8 not in kinds


@exact
def test_with_exact_signed_products_the_log_says_that_weights_are_signed(
    tiny: Path, tmp_path: Path
) -> None:
    with capture_logs() as logs:
        _open(tiny, tmp_path)
    assert logs[0]["event"] == "converting_model"
    assert logs[0]["signed"] is True


def test_a_conversion_that_changes_answers_is_refused_and_that_is_remembered(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoil(editor: Any) -> int:
        for name, tensor in editor.weights.items():
            if tensor.data_type == onnx.TensorProto.UINT8 and len(tensor.dims) == 2:
                wrong = 255 - numpy_helper.to_array(tensor)
                editor.weights[name] = numpy_helper.from_array(wrong, name)
        return 1

    monkeypatch.setattr(conversion, "recentre_weights", spoil)
    with capture_logs() as logs:
        graph = _open(tiny, tmp_path, VNNI)
    (warning,) = [entry for entry in logs if entry["log_level"] == "warning"]
    assert warning["event"] == "model_left_unconverted"
    assert "something else" in warning["reason"]
    assert np.array_equal(_logits(graph, 9), _logits(_untouched(tiny), 9))
    with capture_logs() as logs:
        assert not _open(tiny, tmp_path, VNNI).single_clip
    assert _events(logs) == ["model_left_unconverted"]


def test_a_conversion_that_fails_leaves_the_model_working_and_is_tried_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise MemoryError("no room")

    with monkeypatch.context() as patched, capture_logs() as logs:
        patched.setattr(conversion, "save_optimised", fail)
        graph = _open(tiny, tmp_path)
    assert "model_left_unconverted" in _events(logs)
    assert "no room" in str(logs)
    assert np.array_equal(_logits(graph, 9), _logits(_untouched(tiny), 9))
    assert _open(tiny, tmp_path).single_clip


def test_a_graph_that_cannot_lose_its_masks_is_converted_as_far_as_it_can_be(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> int:
        raise ValueError("an export of another form")

    monkeypatch.setattr(conversion, "specialise", fail)
    graph = _open(tiny, tmp_path)
    assert not graph.single_clip
    assert _entry(tmp_path).is_dir()
    assert np.array_equal(_logits(graph, 9), _logits(_untouched(tiny), 9))


def test_an_answer_that_changed_since_it_was_kept_is_not_given(tiny: Path, tmp_path: Path) -> None:
    _open(tiny, tmp_path)
    path = _entry(tmp_path) / "facts.json"
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({**facts, "ids": [0] * 24, "answer": ""}))
    with capture_logs() as logs:
        graph = _open(tiny, tmp_path)
    assert _events(logs) == ["model_left_unconverted"]
    assert not graph.single_clip


def test_only_the_entries_used_last_are_kept(tiny: Path, tmp_path: Path) -> None:
    features = processor_features()
    for number in range(6):
        _open(tiny, tmp_path, features | {f"feature{number}"})
    kept = [path for path in (tmp_path / "graphs").iterdir() if path.is_dir()]
    assert len(kept) == 4
    with capture_logs() as logs:
        _open(tiny, tmp_path, features | {"feature5"})
    assert _events(logs) == []
    with capture_logs() as logs:
        _open(tiny, tmp_path, features | {"feature0"})
    assert _events(logs) == ["converting_model", "model_converted"]


def test_what_a_start_left_behind_long_ago_is_cleaned_up(tiny: Path, tmp_path: Path) -> None:
    left = tmp_path / "graphs" / ".new-abandoned"
    left.mkdir(parents=True)
    os.utime(left, (0, 0))
    _open(tiny, tmp_path)
    assert not left.exists()


def test_a_graph_for_one_clip_refuses_padding_and_a_second_clip(tiny: Path, tmp_path: Path) -> None:
    graph = _open(tiny, tmp_path)
    features = example_features(20, 560).reshape(2, 10, 560)
    assert not graph.accepts_padding
    with pytest.raises(ValueError, match="one clip, unpadded"):
        graph.run(features, [10, 10], [0, 0], [14, 14])
    with pytest.raises(ValueError, match="one clip, unpadded"):
        graph.run(features[:1], [8], [0], [14])


def test_weight_only_int8_and_float_graphs_are_left_alone(
    demo: Path, tiny: Path, tmp_path: Path
) -> None:
    only_float = tmp_path / "float"
    shutil.copytree(tiny, only_float, ignore=shutil.ignore_patterns("sherpa", "model_quant.onnx"))
    for directory in (demo, only_float):
        assert not _open(directory, tmp_path / "cache").single_clip
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("text", "exact_products"),
    [
        ("processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_vnni\n", True),
        ("flags : sse2 avx2 avx_vnni", True),
        ("flags : avx512f amx_int8", True),
        ("processor : 0\nFeatures : fp asimd asimddp\n", True),
        ("flags : fpu avx2 avx512f avx512bw\nmodel name : VNNI avx_vnni\n", False),
        ("Features : fp asimd\n", False),
        ("", False),
    ],
)
def test_the_processor_is_known_by_its_features(
    text: str, exact_products: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(text)
    assert multiplies_signed_exactly(processor_features(cpuinfo)) is exact_products


def test_a_system_without_cpuinfo_has_no_features(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    assert processor_features(tmp_path / "absent") == frozenset()
