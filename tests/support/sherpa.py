"""The same model for sherpa-onnx: its input names, its metadata, its list of tokens."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx

__all__ = ["for_sherpa"]

_NAMES = {
    "speech": "x",
    "speech_lengths": "x_length",
    "textnorm": "text_norm",
    "ctc_logits": "logits",
}
_IDS = {
    "lang_auto": 0,
    "lang_zh": 3,
    "lang_en": 4,
    "lang_yue": 7,
    "lang_ja": 11,
    "lang_ko": 12,
    "with_itn": 14,
    "without_itn": 15,
}


def for_sherpa(model: Path, graph: str, directory: Path) -> Path:
    """Write `graph` of a funasr model directory with its vocabulary, as sherpa-onnx reads them."""
    directory.mkdir(parents=True, exist_ok=True)
    pieces = json.loads((model / "tokens.json").read_text(encoding="utf-8"))
    lines = [f"{piece} {number}\n" for number, piece in enumerate(pieces)]
    (directory / "tokens.txt").write_text("".join(lines), encoding="utf-8")
    proto = onnx.load(model / graph)
    _rename(proto.graph)
    shift, scale = _statistics(model / "am.mvn")
    metadata = {
        "model_type": "sense_voice_ctc",
        "comment": "",
        "vocab_size": str(len(pieces)),
        "lfr_window_size": "7",
        "lfr_window_shift": "6",
        "normalize_samples": "0",
        "neg_mean": shift,
        "inv_stddev": scale,
        **{name: str(number) for name, number in _IDS.items()},
    }
    onnx.helper.set_model_props(proto, metadata)
    onnx.save(proto, directory / "model.onnx")
    return directory


def _rename(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                names[place] = _NAMES.get(name, name)
    for value in (*graph.input, *graph.output):
        value.name = _NAMES.get(value.name, value.name)


def _statistics(path: Path) -> tuple[str, str]:
    """Shift and scale of kaldi's text form, as lists with commas."""
    shift, scale = re.findall(r"<LearnRateCoef> 0 \[([^\]]*)\]", path.read_text(encoding="utf-8"))
    return ",".join(shift.split()), ",".join(scale.split())
