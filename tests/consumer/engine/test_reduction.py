"""Best pieces taken inside the graph: the same rows, and so the same transcript."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import version_converter
from sensestream_common.contract.errors import ModelError
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.engine.graph.graph import Graph
from sensestream_consumer.engine.graph.reduction import with_best_rows
from sensestream_consumer.engine.model.directory import find_model_files

from tests.consumer.engine.models import TinyModel


def _graphs(directory: Path) -> tuple[Graph, Graph]:
    files = find_model_files(directory, prefer_int8=False)
    return (
        Graph.on_cpu(files, threads=1),
        Graph.reduced(files, device="cpu", threads=1),
    )


def _assert_same(
    directory: Path, features: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
) -> None:
    plain, reduced = _graphs(directory)
    lengths = [features.shape[1], features.shape[1] - 7]
    arguments = (features, lengths, [0, 3], [14, 15])
    expected, said = plain.best(*arguments), reduced.best(*arguments)
    assert [rows.ids.shape for rows in said] == [(4 + length,) for length in lengths]
    for one, other in zip(said, expected, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert one.probabilities.dtype == np.float32
        assert np.allclose(one.probabilities, other.probabilities, atol=1e-6)


def test_the_embedded_model_says_the_same_either_way(demo: Path) -> None:
    features = np.random.default_rng(1).normal(0, 2, (2, 120, 560)).astype(np.float32)
    _assert_same(demo, features)


@pytest.mark.parametrize("model", ["demo", "tiny"])  # padded by themselves, and before them
def test_convolutions_become_products_that_say_the_same(
    model: str, request: pytest.FixtureRequest
) -> None:
    directory: Path = request.getfixturevalue(model)
    before = onnx.load(directory / "model.onnx")
    after = onnx.load_from_string(with_best_rows(directory / "model.onnx"))
    kinds = [Counter(node.op_type for node in graph.graph.node) for graph in (before, after)]
    assert kinds[0]["Conv"] > 0
    assert kinds[1]["Conv"] == 0
    features = np.random.default_rng(3).normal(0, 1, (2, 61, 560)).astype(np.float32)
    arguments = (features, [61, 40], [0, 3], [14, 15])
    plain, prepared = _graphs(directory)
    assert np.allclose(plain.run(*arguments), prepared.run(*arguments), atol=1e-4)


def test_a_convolution_of_another_kind_is_left_alone(demo: Path, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    model = onnx.load(demo / "model.onnx")
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    for node in convolutions:
        (strides,) = [one for one in node.attribute if one.name == "strides"]
        strides.ints[:] = [2]
    onnx.save(model, path)
    prepared = onnx.load_from_string(with_best_rows(path))
    assert [n.op_type for n in prepared.graph.node].count("Conv") == len(convolutions) > 0


def test_a_model_in_16_bits_says_nearly_the_same_and_is_named_for_it(tiny: Path) -> None:
    features = np.random.default_rng(2).normal(0, 1, (2, 60, 560)).astype(np.float32)
    arguments = (features, [60, 53], [0, 3], [14, 15])
    full, _ = _graphs(tiny)
    _, half = _graphs(tiny / "half")
    for one, other in zip(half.best(*arguments), full.best(*arguments), strict=True):
        assert one.probabilities.dtype == np.float32
        assert (one.ids == other.ids).mean() > 0.9  # random weights have near ties
    assert Recogniser.load(tiny / "half", device="cpu").name == "half-fp16"


@pytest.mark.parametrize("sherpa", [False, True], ids=["funasr", "sherpa-onnx"])
@pytest.mark.parametrize("opset", [11, 14, 18])
def test_every_age_and_kind_of_graph_says_the_same_either_way(
    sherpa: bool, opset: int, tmp_path: Path
) -> None:
    directory = TinyModel(sherpa=sherpa, says=["▁hello", "<unk>", "ld"]).write(tmp_path)
    path = directory / "model.onnx"
    model = onnx.load(path)
    if opset == 11:
        _with_axes_as_attributes(model)
        model.opset_import[0].version = opset
        onnx.save(model, path)
    else:
        onnx.save(version_converter.convert_version(model, opset), path)
    _assert_same(directory, np.zeros((2, 40, 560), np.float32))


def _with_axes_as_attributes(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type == "Unsqueeze":
            del node.input[1:]
            node.attribute.append(onnx.helper.make_attribute("axes", [1]))


def test_a_half_precision_answer_is_widened_before_it_is_summed(tmp_path: Path) -> None:
    directory = TinyModel(logit=9.0).write(tmp_path)
    path = directory / "model.onnx"
    model = onnx.load(path)
    (last,) = [node for node in model.graph.node if node.output[0] == "ctc_logits"]
    last.output[0] = "wide_logits"
    half = onnx.TensorProto.FLOAT16
    model.graph.node.append(onnx.helper.make_node("Cast", ["wide_logits"], ["ctc_logits"], to=half))
    model.graph.output[0].type.tensor_type.elem_type = half
    onnx.save(model, path)
    _assert_same(directory, np.zeros((2, 40, 560), np.float32))


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\xff\xff\xff\xff no graph")
    with pytest.raises(ModelError, match=r"model\.onnx cannot be prepared for a GPU"):
        with_best_rows(path)
