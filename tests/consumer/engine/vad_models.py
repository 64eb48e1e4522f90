"""A tiny voice activity model whose answer is known: loud frames are speech."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.consumer.engine.models import write_cmvn

WIDTH, CACHE = 400, (1, 8, 2, 1)


def write_vad(directory: Path, graph: str = "model.onnx", **settings: object) -> Path:
    """A directory in the form of FunASR's, with the loudness in place of a network."""
    directory.mkdir(parents=True, exist_ok=True)
    onnx.save(loudness_graph(), directory / graph)
    conf = {"fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10}
    config = {"frontend_conf": {**conf, "lfr_m": 5, "lfr_n": 1}, "model_conf": settings}
    (directory / "config.yaml").write_text(json.dumps(config))
    write_cmvn(directory, width=WIDTH)
    return directory


def loudness_graph(*, cache: str = "in_cache0", longest: int = 0) -> onnx.ModelProto:
    """Silence is likely where a row's mean is low. More rows than `longest` are an error."""
    node = helper.make_node
    constants = {
        "axes": np.array([2], np.int64),
        "steep": np.array(-10.0, np.float32),
        "one": np.array(1.0, np.float32),
        "pair": np.array([0], np.int64),
    }
    nodes = [
        node("ReduceMean", ["speech"], ["mean"], axes=[2], keepdims=1),
        node("Mul", ["mean", "steep"], ["scaled"]),
        node("Sigmoid", ["scaled"], ["silence"]),
        node("Sub", ["one", "silence"], ["voice"]),
        node("Concat", ["silence", "voice"], ["logits"], axis=2),
        node("Identity", [cache], ["out_cache0"]),
    ]
    rows: int | str = longest or "T"
    graph = helper.make_graph(
        nodes,
        "loudness",
        [
            helper.make_tensor_value_info("speech", TensorProto.FLOAT, [1, rows, WIDTH]),
            helper.make_tensor_value_info(cache, TensorProto.FLOAT, list(CACHE)),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [1, "T", 2]),
            helper.make_tensor_value_info("out_cache0", TensorProto.FLOAT, list(CACHE)),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
