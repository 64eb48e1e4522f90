"""The steps of each conversion of a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import onnx

from sensestream_consumer.engine.graph.conversion.attention import fuse_attention
from sensestream_consumer.engine.graph.conversion.editor import Editor
from sensestream_consumer.engine.graph.conversion.recentre import recentre_weights
from sensestream_consumer.engine.graph.conversion.row_scales import quantise_by_row, scaled_together
from sensestream_consumer.engine.graph.conversion.single_clip import specialise
from sensestream_consumer.engine.session import open_session, save_optimised

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["convert_for_batches", "convert_graph"]

_RUNTIME_DOMAIN = "com.microsoft"


def convert_graph(
    source: Path,
    target: Path,
    *,
    lengths: str,
    feed: Callable[[int], Mapping[str, NDArray[Any]]],
    signed: bool,
    single_clip: bool,
) -> dict[str, int]:
    """Write `source`, already optimised and with its weights `signed` if asked, as `target`.

    With `single_clip` the result takes one clip without padding only, and computes no masks;
    `lengths` names the input with the clips' lengths, `feed` gives a clip of so many rows.
    Answers with how often each step found its work. What onnx and ONNX Runtime raise comes
    through.
    """
    model = onnx.load(str(source))
    editor = Editor(model)
    edited = target.with_name("edited.onnx")
    found = {}
    if single_clip:
        found["masks and shapes"] = specialise(editor, lengths, _probe(model, feed, edited))
        found["attention"] = fuse_attention(editor)
    if signed:
        found["weights"] = recentre_weights(editor)
    _finish(editor)
    onnx.save(model, str(edited))
    del model, editor
    save_optimised(edited, target)
    edited.unlink()
    return found


def convert_for_batches(source: Path, *, signed: bool) -> tuple[bytes, list[str]]:
    """`source` with one activation scale a row, and with its weights `signed` if asked.

    Answers with the graph, serialised, and with those of its operators that still find one scale
    for a whole batch. What onnx raises comes through.
    """
    model = onnx.load(str(source))
    editor = Editor(model)
    if signed:
        recentre_weights(editor)
    quantise_by_row(editor)
    _finish(editor)
    return model.SerializeToString(), scaled_together(model.graph)


def _finish(editor: Editor) -> None:
    editor.finish()
    imports = editor.model.opset_import
    if not any(opset.domain == _RUNTIME_DOMAIN for opset in imports):
        imports.append(onnx.helper.make_opsetid(_RUNTIME_DOMAIN, 1))


def _probe(
    model: onnx.ModelProto, feed: Callable[[int], Mapping[str, NDArray[Any]]], scratch: Path
) -> Callable[[int, Sequence[str]], list[NDArray[Any]]]:
    """Runs the graph as it is, with its inner values for answers."""
    sessions: list[Any] = []

    def values(rows: int, names: Sequence[str]) -> list[NDArray[Any]]:
        if not sessions:
            sessions.append(_open_inside(model, names, scratch))
        answers: list[NDArray[Any]] = sessions[0].run(list(names), dict(feed(rows)))
        return answers

    return values


def _open_inside(model: onnx.ModelProto, names: Sequence[str], scratch: Path) -> Any:
    known = {value.name for value in model.graph.output}
    count = len(known)
    inner = [onnx.ValueInfoProto(name=name) for name in names if name not in known]
    model.graph.output.extend(inner)
    onnx.save(model, str(scratch))
    del model.graph.output[count:]
    try:
        return open_session(scratch, "cpu", 1, optimise=False)
    finally:
        scratch.unlink()
