"""The graph that a GPU runs: best tokens inside it, and no convolution that wants a plan.

For ten seconds of audio the logits of a vocabulary of 25,055 are 17 MB, their best tokens 2 KB.
On a GPU that is the copy that counts; on a CPU nothing is copied, and nothing is gained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.model.graph_contract import FUNASR, SHERPA

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["BEST_IDS", "BEST_PROBABILITIES", "with_best_rows"]

BEST_IDS = "sensestream_best_ids"  # int64[clips, 4 + rows]
BEST_PROBABILITIES = "sensestream_best_probabilities"  # float32[clips, 4 + rows]
_LOGITS = (FUNASR.logits, SHERPA.logits)
_AXES_ARE_INPUTS = {"ReduceSum": 13, "ReduceMax": 18}  # from this opset on


def with_best_rows(graph: Path) -> bytes:
    """The graph with two more outputs: the best token of each row, and its probability.

    Its depthwise convolutions become products (see `unfold_convolutions`). The logits stay an
    output, which costs nothing where nobody asks for it. Raises `ModelError` for a file that is
    no graph, and for one beyond the two gigabytes of a single message.
    """
    import onnx  # only a device that gains by it pays for these imports

    from sensestream_consumer.engine.graph.conversion.editor import Editor
    from sensestream_consumer.engine.graph.conversion.unfolding import unfold_convolutions

    try:
        model = onnx.load(str(graph))
        editor = Editor(model)
        if unfold_convolutions(editor):
            editor.finish()
        logits = next((one.name for one in model.graph.output if one.name in _LOGITS), None)
        if logits is not None:
            _append(model, logits)
        return bytes(model.SerializeToString())
    except Exception as error:  # protobuf raises classes of its own
        raise ModelError(f"{graph} cannot be prepared for a GPU: {error}") from error


def _append(model: Any, logits: str) -> None:
    from onnx import TensorProto, helper

    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    prefix = "sensestream_"
    wide, most, lower, powers, total, share = (
        f"{prefix}{name}" for name in ("wide", "most", "lower", "powers", "total", "share")
    )
    nodes = [
        helper.make_node("Cast", [logits], [wide], to=TensorProto.FLOAT),
        helper.make_node("ArgMax", [wide], [BEST_IDS], axis=2, keepdims=0),
        *_reduce("ReduceMax", wide, most, opset),
        helper.make_node("Sub", [wide, most], [lower]),
        helper.make_node("Exp", [lower], [powers]),
        *_reduce("ReduceSum", powers, total, opset),
        helper.make_node("Reciprocal", [total], [share]),
        *_squeeze(share, BEST_PROBABILITIES, opset),
    ]
    model.graph.node.extend(nodes)
    for name, kind in ((BEST_IDS, TensorProto.INT64), (BEST_PROBABILITIES, TensorProto.FLOAT)):
        model.graph.output.append(helper.make_tensor_value_info(name, kind, ["clips", "rows"]))


def _reduce(operator: str, source: str, target: str, opset: int) -> list[Any]:
    from onnx import helper

    if opset < _AXES_ARE_INPUTS[operator]:
        return [helper.make_node(operator, [source], [target], axes=[2], keepdims=1)]
    return [
        _axis(f"{target}_axis"),
        helper.make_node(operator, [source, f"{target}_axis"], [target], keepdims=1),
    ]


def _squeeze(source: str, target: str, opset: int) -> list[Any]:
    from onnx import helper

    if opset < 13:
        return [helper.make_node("Squeeze", [source], [target], axes=[2])]
    return [
        _axis(f"{target}_axis"),
        helper.make_node("Squeeze", [source, f"{target}_axis"], [target]),
    ]


def _axis(name: str) -> Any:
    from onnx import TensorProto, helper

    value = helper.make_tensor(name, TensorProto.INT64, [1], [2])
    return helper.make_node("Constant", [], [name], value=value)
