"""Batches of int8 graphs: each row has its own activation scale, so neighbours change nothing."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from numpy.typing import NDArray
from onnx import helper
from sensestream_common.contract.errors import ModelError
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.engine.batching.queue import BatchLimits
from sensestream_consumer.engine.graph.graph import Graph
from sensestream_consumer.engine.graph.int8_batches import open_batching_graph
from sensestream_consumer.engine.model.directory import ModelFiles, find_model_files
from sensestream_consumer.engine.model.fingerprint import inspect_graph

from tests.consumer.engine.speech import bundled_clips, read_speech
from training.full_size import _quantise

pytestmark = pytest.mark.long

Ids = NDArray[np.intp]
LIMITS = BatchLimits(rows=1500, max_wait=0.2)


@dataclass(frozen=True)
class Clip:
    """Features that are noise, of a loudness of their own."""

    rows: int
    seed: int
    loudness: float
    language: int

    def features(self) -> NDArray[np.float32]:
        noise = np.random.default_rng(self.seed).normal(0, self.loudness, (self.rows, 560))
        return noise.astype(np.float32)


CLIPS = st.lists(
    st.builds(
        Clip,
        rows=st.integers(1, 140),
        seed=st.integers(0, 1000),
        loudness=st.sampled_from([0.0, 0.01, 0.3, 1.0, 6.0]),
        language=st.sampled_from([0, 3, 4, 12]),
    ),
    min_size=2,
    max_size=6,
)


@pytest.fixture(scope="session")
def dynamic_demo(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model quantised as FunASR does it, activations included."""
    directory = tmp_path_factory.mktemp("dynamic") / "demo"
    shutil.copytree(demo, directory)
    _quantise(demo / "model.onnx", directory / "model_quant.onnx")
    return directory


@pytest.fixture(scope="session")
def batching(tiny: Path, older: Path, dynamic_demo: Path) -> dict[str, Graph]:
    """Graphs as they are opened for batches."""
    directories = {"tiny": tiny, "older": older, "demo": dynamic_demo}
    return {name: _batching(directory) for name, directory in directories.items()}


def _batching(directory: Path) -> Graph:
    files = find_model_files(directory, prefer_int8=True)
    return open_batching_graph(files, inspect_graph(files.graph), threads=1)


def _untouched(directory: Path) -> Graph:
    return Graph.on_cpu(find_model_files(directory, prefer_int8=True), threads=1)


def _alone(graph: Graph, clip: Clip) -> Ids:
    return graph.best(clip.features()[np.newaxis], [clip.rows], [clip.language], [14])[0].ids


def _together(graph: Graph, clips: Sequence[Clip], padding: int) -> list[Ids]:
    lengths = [clip.rows for clip in clips]
    features = np.zeros((len(clips), max(lengths) + padding, 560), np.float32)
    for row, clip in zip(features, clips, strict=True):
        row[: clip.rows] = clip.features()
    said = graph.best(features, lengths, [clip.language for clip in clips], [14] * len(clips))
    return [rows.ids for rows in said]


@pytest.mark.parametrize("name", ["tiny", "older", "demo"])
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(clips=CLIPS, padding=st.integers(0, 90))
def test_a_clip_says_the_same_alone_and_in_any_batch(
    name: str, batching: dict[str, Graph], clips: list[Clip], padding: int
) -> None:
    graph = batching[name]
    together = _together(graph, clips, padding if graph.accepts_padding else 0)
    for clip, ids in zip(clips, together, strict=True):
        assert np.array_equal(ids, _alone(graph, clip)), clip


def test_with_one_scale_for_a_whole_batch_a_loud_neighbour_changes_what_a_clip_says(
    tiny: Path,
) -> None:
    graph = _untouched(tiny)
    pairs = [(Clip(80, seed, 0.3, 0), Clip(120, 100 + seed, 6.0, 0)) for seed in range(12)]
    assert not all(
        np.array_equal(_together(graph, pair, 0)[0], _alone(graph, pair[0])) for pair in pairs
    )


@pytest.fixture(scope="module")
def recogniser(dynamic_demo: Path) -> Iterator[Recogniser]:
    recogniser = Recogniser.load(dynamic_demo, device="cpu", batching=LIMITS)
    yield recogniser
    recogniser.close()


def test_speech_in_batches_is_transcribed_as_it_was_said(recogniser: Recogniser) -> None:
    clips = bundled_clips()
    with ThreadPoolExecutor(len(clips)) as pool:
        transcripts = list(
            pool.map(
                lambda clip: recogniser.recognise(read_speech(clip.path), clip.language, clip.itn),
                clips,
            )
        )
    assert [one.text for one in transcripts] == [clip.text for clip in clips]
    assert recogniser.batch_stats is not None
    assert recogniser.batch_stats.clips == len(clips)


def test_another_scale_is_another_recogniser(
    recogniser: Recogniser, dynamic_demo: Path, tmp_path: Path
) -> None:
    one_by_one = Recogniser.load(dynamic_demo, device="cpu", cache=tmp_path)
    assert recogniser.name == "demo-int8-rows"
    assert one_by_one.name == "demo-int8"
    assert recogniser.fingerprint != one_by_one.fingerprint


def test_integers_for_weights_only_are_batched_as_they_are(demo: Path) -> None:
    one_by_one = Recogniser.load(demo, device="cpu")
    batching = Recogniser.load(demo, device="cpu", batching=LIMITS)
    assert (batching.name, batching.fingerprint) == (one_by_one.name, one_by_one.fingerprint)
    batching.close()


def _with_a_product_of_another_form(model: onnx.ModelProto) -> None:
    """Something between a product's integers and what turns them into floats."""
    nodes = list(model.graph.node)
    integers = next(node.output[0] for node in nodes if node.op_type == "MatMulInteger")
    number = next(number for number, node in enumerate(nodes) if integers in node.input)
    nodes[number].input[0] = "elsewhere"
    nodes.insert(number, helper.make_node("Identity", [integers], ["elsewhere"]))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def test_a_graph_in_which_one_scale_would_be_left_is_refused_with_the_reason(
    tiny: Path, tmp_path: Path
) -> None:
    directory = tmp_path / "other"
    shutil.copytree(tiny, directory, ignore=shutil.ignore_patterns("sherpa"))
    model = onnx.load(str(tiny / "model_quant.onnx"))
    _with_a_product_of_another_form(model)
    onnx.save(model, str(directory / "model_quant.onnx"))
    _untouched(directory)  # it is a sound graph
    with pytest.raises(ModelError, match="1 DynamicQuantizeLinear of another form") as refused:
        Recogniser.load(directory, device="cpu", batching=LIMITS)
    assert "would depend on its batch neighbours" in str(refused.value)


def test_a_machine_on_which_a_batch_changes_an_answer_is_found_out_at_start(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_cpu = Graph.on_cpu

    def as_it_was(files: ModelFiles, *, threads: int, row_scaled: bytes | None = None) -> Graph:
        return on_cpu(files, threads=threads)

    monkeypatch.setattr(Graph, "on_cpu", as_it_was)
    with pytest.raises(ModelError, match="said something else in a batch"):
        Recogniser.load(tiny, device="cpu", batching=LIMITS)


def test_a_later_version_of_the_operators_is_converted_as_well(tiny: Path, tmp_path: Path) -> None:
    directory = tmp_path / "later"
    shutil.copytree(tiny, directory, ignore=shutil.ignore_patterns("sherpa"))
    model = onnx.load(str(tiny / "model_quant.onnx"))
    onnx.save(
        onnx.version_converter.convert_version(model, 18), str(directory / "model_quant.onnx")
    )
    clip = Clip(30, 3, 1.0, 0)
    assert np.array_equal(_alone(_batching(directory), clip), _alone(_batching(tiny), clip))
