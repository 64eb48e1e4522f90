"""A recogniser's fingerprint: the same for the same answers, another for anything else."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from sensestream_consumer.engine import Recogniser
from sensestream_consumer.engine.model import fingerprint as module
from sensestream_consumer.engine.model.fingerprint import inspect_graph
from sensestream_consumer.engine.segmentation.cutters import EnergyCutter

from tests.consumer.engine.models import TOKENS, TinyModel, write_cmvn, write_vocabulary


def _fingerprint(directory: Path) -> str:
    return Recogniser.load(directory, device="cpu").fingerprint


def test_the_same_model_elsewhere_has_the_same_fingerprint(tmp_path: Path) -> None:
    first = _fingerprint(TinyModel().write(tmp_path / "one"))
    assert _fingerprint(TinyModel().write(tmp_path / "two")) == first
    assert int(first, 16) >= 0


def test_the_form_of_the_vocabulary_does_not_matter_but_every_token_does(tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    before = _fingerprint(directory)
    (directory / "tokens.json").unlink()
    write_vocabulary(directory / "tokens.txt", TOKENS)
    assert _fingerprint(directory) == before
    write_vocabulary(directory / "tokens.txt", [*TOKENS[:-1], "<|other|>"])
    assert _fingerprint(directory) != before


def test_another_graph_or_other_statistics_are_another_recogniser(tmp_path: Path) -> None:
    directory = TinyModel().write(tmp_path)
    before = _fingerprint(directory)
    write_cmvn(directory, scale=0.2)
    after = _fingerprint(directory)
    assert after != before
    onnx.save(TinyModel(says=["s"]).build(), directory / "model.onnx")
    assert _fingerprint(directory) not in {before, after}


def test_another_cutting_rule_or_engine_revision_is_another_recogniser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = TinyModel().write(tmp_path)
    before = _fingerprint(directory)
    monkeypatch.setattr(module, "ENGINE_REVISION", module.ENGINE_REVISION + 1)
    assert _fingerprint(directory) != before
    assert EnergyCutter(20).rule != EnergyCutter(30).rule


def test_weights_kept_beside_the_graph_are_part_of_it(tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"graph")
    weights = tmp_path / "model.onnx.data"
    weights.write_bytes(b"one")
    before = inspect_graph(graph).digest
    weights.write_bytes(b"two")
    assert inspect_graph(graph).digest != before


@pytest.mark.parametrize("position", [0, 100, 4_194_304 - 7])
def test_integer_operators_are_found_wherever_they_stand(position: int, tmp_path: Path) -> None:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"x" * position + b"MatMulInteger" + b"x" * 100)
    assert inspect_graph(graph).integer
    graph.write_bytes(b"x" * position + b"MatMul" + b"x" * 100)
    assert not inspect_graph(graph).integer
