"""Builds tiny SenseVoice graphs whose answer is known, and the files beside them.

The graph says the tokens of a script, one a row, whatever the audio is; its first and fourth
rows answer with the tokens that stand for the language and text normalisation ids it was fed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from sentencepiece import sentencepiece_model_pb2

WIDTH = 560
BPE = "chn_jpn_yue_eng_ko_spectok.bpe.model"

TOKENS = [
    "<unk>",
    "<s>",
    "</s>",
    "▁hello",
    "▁wor",
    "ld",
    ".",
    "你",
    "好",
    "。",
    "▁",
    "s",
    "<|zh|>",
    "<|en|>",
    "<|yue|>",
    "<|ja|>",
    "<|ko|>",
    "<|nospeech|>",
    "<|NEUTRAL|>",
    "<|HAPPY|>",
    "<|EMO_UNKNOWN|>",
    "<|Speech|>",
    "<|BGM|>",
    "<|Event_UNK|>",
    "<|withitn|>",
    "<|woitn|>",
]
# The token that stands for each id a graph is fed; auto is answered as English.
_ANSWERS = {
    0: "<|en|>",
    3: "<|zh|>",
    4: "<|en|>",
    7: "<|yue|>",
    11: "<|ja|>",
    12: "<|ko|>",
    13: "<|nospeech|>",
    14: "<|withitn|>",
    15: "<|woitn|>",
}
_FUNASR = ("speech", "speech_lengths", "language", "textnorm", "ctc_logits")
_SHERPA = ("x", "x_length", "language", "text_norm", "logits")


@dataclass
class TinyModel:
    """What to write; every test changes only what it is about."""

    says: list[str] = field(default_factory=lambda: ["▁hello", "▁wor", "ld"])  # rows after the tags
    emotion: str = "<|NEUTRAL|>"
    event: str = "<|Speech|>"
    sherpa: bool = False
    wide_mask: bool = True  # rows may be padded beyond the longest clip
    tokens: list[str] = field(default_factory=lambda: list(TOKENS))
    vocabulary: str = "tokens.json"
    graph: str = "model.onnx"
    metadata: dict[str, str] = field(default_factory=dict)
    logit: float = 20.0  # of the token said; all others have 0
    names: tuple[str, ...] = ()

    def write(self, directory: Path) -> Path:
        directory.mkdir(parents=True, exist_ok=True)
        onnx.save(self.build(), directory / self.graph)
        write_vocabulary(directory / self.vocabulary, self.tokens)
        if not self.sherpa:
            write_config(directory)
            write_cmvn(directory)
        return directory

    def build(self) -> onnx.ModelProto:
        feats, lengths, language, textnorm, logits = self.names or (
            _SHERPA if self.sherpa else _FUNASR
        )
        number = {token: index for index, token in enumerate(TOKENS)}
        answers = np.array([number[_ANSWERS.get(index, "<unk>")] for index in range(16)], np.int64)
        spoken = np.zeros(4096, np.int64)
        spoken[: len(self.says)] = [number[token] for token in self.says]
        constants: dict[str, NDArray[Any]] = {
            "answers": answers,
            "emotion_event": np.array([[number[self.emotion], number[self.event]]], np.int64),
            "spoken": spoken[np.newaxis],
            "depth": np.array(len(self.tokens), np.int64),
            "values": np.array([0.0, self.logit], np.float32),
            "zero": np.array([0], np.int64),
            "one": np.array([1], np.int64),
            "two": np.array([2], np.int64),
            "four": np.array([4], np.int64),
            "axis2": np.array([2], np.int64),
        }
        node = helper.make_node
        nodes = [
            node("Shape", [feats], ["shape"]),
            node("Slice", ["shape", "zero", "one"], ["clips"]),
            node("Slice", ["shape", "one", "two"], ["rows"]),
            node("Gather", ["answers", language], ["said_language"]),
            node("Gather", ["answers", textnorm], ["said_textnorm"]),
            node("Unsqueeze", ["said_language", "one"], ["row0"]),
            node("Unsqueeze", ["said_textnorm", "one"], ["row3"]),
            node("Concat", ["clips", "two"], ["shape12"], axis=0),
            node("Expand", ["emotion_event", "shape12"], ["row12"]),
            node("Slice", ["spoken", "zero", "rows", "one"], ["said"]),
            node("Concat", ["clips", "rows"], ["shape_said"], axis=0),
            node("Expand", ["said", "shape_said"], ["row4"]),
            node("Concat", ["row0", "row12", "row3", "row4"], ["ids"], axis=1),
            node("OneHot", ["ids", "depth", "values"], ["scripted"], axis=-1),
            # The mask: as wide as the rows, or as the longest clip.
            node("Cast", [lengths], ["lengths64"], to=TensorProto.INT64),
            node("ReduceMax", ["lengths64"], ["longest"], keepdims=1),
            node("Add", ["rows" if self.wide_mask else "longest", "four"], ["width"]),
            node("Concat", ["one", "width", "one"], ["mask_shape"], axis=0),
            node(
                "ConstantOfShape",
                ["mask_shape"],
                ["mask"],
                value=helper.make_tensor("value", TensorProto.FLOAT, [1], [1.0]),
            ),
            node("Mul", ["scripted", "mask"], [logits]),
            node("Add", ["lengths64", "four"], ["encoder_out_lens"]),
        ]
        graph = helper.make_graph(
            nodes,
            "tiny",
            [
                helper.make_tensor_value_info(feats, TensorProto.FLOAT, ["B", "T", WIDTH]),
                helper.make_tensor_value_info(lengths, TensorProto.INT32, ["B"]),
                helper.make_tensor_value_info(language, TensorProto.INT32, ["B"]),
                helper.make_tensor_value_info(textnorm, TensorProto.INT32, ["B"]),
            ],
            [
                helper.make_tensor_value_info(logits, TensorProto.FLOAT, ["B", "L", "V"]),
                helper.make_tensor_value_info("encoder_out_lens", TensorProto.INT64, ["B"]),
            ],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
        if self.sherpa:
            helper.set_model_props(model, {**sherpa_metadata(), **self.metadata})
        return model


def sherpa_metadata() -> dict[str, str]:
    """What sherpa-onnx's exporter writes."""
    return {
        "model_type": "sense_voice_ctc",
        "lfr_window_size": "7",
        "lfr_window_shift": "6",
        "normalize_samples": "0",
        "neg_mean": ",".join(["-8.5"] * WIDTH),
        "inv_stddev": ",".join(["0.15"] * WIDTH),
        "vocab_size": str(len(TOKENS)),
        "lang_auto": "0",
        "lang_zh": "3",
        "lang_en": "4",
        "lang_yue": "7",
        "lang_ja": "11",
        "lang_ko": "12",
        "with_itn": "14",
        "without_itn": "15",
    }


def write_config(directory: Path, **changes: object) -> None:
    options = {
        "fs": 16000,
        "window": "hamming",
        "n_mels": 80,
        "frame_length": 25,
        "frame_shift": 10,
        "lfr_m": 7,
        "lfr_n": 6,
        "cmvn_file": None,
        **changes,
    }
    # JSON is YAML.
    (directory / "config.yaml").write_text(json.dumps({"frontend_conf": options}))


def write_cmvn(
    directory: Path, shift: float = -8.5, scale: float = 0.15, width: int = WIDTH
) -> None:
    def vector(value: float) -> str:
        return " ".join([str(value)] * width)

    (directory / "am.mvn").write_text(
        f"<Nnet> \n<Splice> {width} {width}\n[ 0 ]\n"
        f"<AddShift> {width} {width} \n<LearnRateCoef> 0 [ {vector(shift)} ]\n"
        f"<Rescale> {width} {width}\n<LearnRateCoef> 0 [ {vector(scale)} ]\n</Nnet> \n"
    )


def write_vocabulary(path: Path, tokens: list[str]) -> None:
    if path.suffix == ".json":
        path.write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    elif path.suffix == ".txt":
        lines = [f"{token} {number}" for number, token in enumerate(tokens)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        path.write_bytes(sentencepiece_model(tokens))


def sentencepiece_model(tokens: list[str]) -> bytes:
    """A serialised sentencepiece model that has exactly these tokens."""
    proto: Any = sentencepiece_model_pb2  # made at run time, so it has no types
    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    control = {"<unk>": kinds.UNKNOWN, "<s>": kinds.CONTROL, "</s>": kinds.CONTROL}
    for number, token in enumerate(tokens):
        usual = kinds.USER_DEFINED if token.startswith("<|") else kinds.NORMAL
        model.pieces.add(piece=token, score=-float(number), type=control.get(token, usual))
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.unk_id, model.trainer_spec.bos_id, model.trainer_spec.eos_id = 0, 1, 2
    model.trainer_spec.pad_id = -1
    model.trainer_spec.vocab_size = len(tokens)
    model.normalizer_spec.name = "identity"
    model.normalizer_spec.add_dummy_prefix = True
    return bytes(model.SerializeToString())
