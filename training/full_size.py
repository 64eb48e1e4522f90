"""Builds a model directory of SenseVoice-small's full size, for benchmarks and tests.

    python -m training.full_size [FOLDER] [--sherpa] [--half]

The architecture is SenseVoice-small's (see `training.sanm_graph`), the weights are noise, so it
hears nothing, in exactly the time and memory that the real one takes. Needs what the worker
needs and no PyTorch; 2 to 4 minutes, 5 GB of memory and 1.5 GB of disk.

`model_quant.onnx` is quantised as FunASR's export does it: 8-bit matrix products with one scale
an output channel, unsigned weights, activations scaled while it runs. `--sherpa` adds the same
integers under sherpa-onnx's names and metadata, in the folder `sherpa`; `--half` the same model
in 16-bit floats for a GPU, in the folder `half`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic
from sensestream_consumer.engine.frontend import SAMPLE_RATE, Cmvn, Frontend, FrontendOptions
from sentencepiece import sentencepiece_model_pb2

from training.sanm_graph import Sizes, build_graph, set_head_bias

__all__ = ["build", "default_folder", "full_vocabulary", "speech_like"]

_PIECES = 25_055
_FIRST_TAG = 24_884
# The ids that SenseVoice's own vocabulary gives its tags.
_TAGS = {
    24884: "zh", 24885: "en", 24888: "yue", 24892: "ja", 24896: "ko", 24992: "nospeech",
    24993: "Speech", 24995: "BGM", 24997: "Laughter", 24999: "Applause", 25001: "HAPPY",
    25002: "SAD", 25003: "ANGRY", 25004: "NEUTRAL", 25005: "FEARFUL", 25006: "DISGUSTED",
    25007: "SURPRISED", 25008: "OTHER", 25009: "EMO_UNKNOWN", 25010: "Cry", 25011: "Sneeze",
    25012: "Breath", 25013: "Cough", 25014: "Sing", 25015: "Speech_Noise", 25016: "withitn",
    25017: "woitn", 25018: "GBG", 25019: "Event_UNK",
}  # fmt: skip
# In speech about this share of rows emits nothing; noise would emit a piece on every row.
_BLANK_SHARE = 0.7
_LANGUAGES = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12, "nospeech": 13}
_CONFIG = {
    "model": "SenseVoiceSmall",
    "frontend": "WavFrontend",
    "frontend_conf": {
        "fs": 16000, "window": "hamming", "n_mels": 80, "frame_length": 25, "frame_shift": 10,
        "lfr_m": 7, "lfr_n": 6,
    },
}  # fmt: skip


def default_folder() -> Path:
    """`full-size` in the user's cache folder."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "sensestream" / "full-size"


def full_vocabulary(pieces: int = _PIECES) -> list[str]:
    """Pieces of our own making under SenseVoice's numbers: syllables, characters, tags.

    A shorter one (for small models in tests) has all the tags at its end.
    """
    first_tag = _FIRST_TAG - _PIECES + pieces
    tags = [_TAGS.get(number, f"unused_{number}") for number in range(_FIRST_TAG, _PIECES)]
    syllables = [
        f"{mark}{onset}{vowel}{coda}"
        for mark in ("▁", "")
        for onset in ("", *"bcdfghjklmnpqrstvwxyz", "st", "tr", "ch", "sh")
        for vowel in "aeiou"
        for coda in ("", *"lmnrst")
    ]
    characters = (chr(number) for number in (*range(0x4E00, 0xA000), *range(0xAC00, 0xD7A4)))
    words = ["<unk>", "<s>", "</s>", "▁", *".,?!。，？！'", *"0123456789", *syllables]
    while len(words) < first_tag:
        words.append(next(characters))
    return [*words[:first_tag], *(f"<|{tag}|>" for tag in tags)]


def speech_like(seconds: float, *, seed: int) -> NDArray[np.int16]:
    """Noise with the spectral slope, the syllables and the pauses of speech: int16 at 16 kHz."""
    random = np.random.default_rng(seed)
    count = round(seconds * SAMPLE_RATE)
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum /= 1.0 + np.arange(spectrum.size) * (SAMPLE_RATE / count / 500.0)
    noise = np.fft.irfft(spectrum, count)
    syllables = random.uniform(0.0, 1.0, count // 1600 + 2) ** 2
    envelope = np.interp(np.arange(count) / 1600.0, np.arange(syllables.size), syllables)
    audio = noise * envelope
    samples: NDArray[np.int16] = (audio * (12_000 / np.abs(audio).max())).astype(np.int16)
    return samples


def build(
    folder: Path,
    sizes: Sizes | None = None,
    *,
    seed: int = 0,
    sherpa: bool = False,
    half: bool = False,
) -> Path:
    """Write the whole model directory; each file appears only when it is complete."""
    sizes = sizes or Sizes()
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / ".new"
    scratch.mkdir(exist_ok=True)
    steps = _Progress()
    pieces = full_vocabulary(sizes.pieces)
    _write_vocabulary(scratch, pieces)
    (scratch / "config.yaml").write_text(json.dumps(_CONFIG, indent=1), encoding="utf-8")
    cmvn = _statistics()
    (scratch / "am.mvn").write_text(_kaldi_text(cmvn), encoding="utf-8")
    steps.done("vocabulary, configuration, statistics")
    model = build_graph(sizes, seed=seed)
    onnx.save(model, str(scratch / "model.onnx"))
    steps.done("graph with seeded weights")
    set_head_bias(model, _head_bias(scratch / "model.onnx", sizes, cmvn))
    onnx.save(model, str(scratch / "model.onnx"))
    del model
    steps.done("model.onnx")
    _quantise(scratch / "model.onnx", scratch / "model_quant.onnx")
    steps.done("model_quant.onnx")
    if sherpa:
        (folder / "sherpa").mkdir(exist_ok=True)
        _write_sherpa(scratch / "model_quant.onnx", folder / "sherpa", pieces, cmvn)
        steps.done("sherpa/model.int8.onnx")
    if half:
        _write_half(scratch, folder / "half")
        steps.done("half/model.onnx")
    for file in sorted(scratch.iterdir()):
        file.replace(folder / file.name)
    scratch.rmdir()
    return folder


class _Progress:
    def __init__(self) -> None:
        self._began = time.monotonic()

    def done(self, what: str) -> None:
        print(f"  {time.monotonic() - self._began:6.1f} s  {what}", flush=True)


def _head_bias(graph: Path, sizes: Sizes, cmvn: Cmvn) -> NDArray[np.float32]:
    """A bias that makes most rows blank, from what the graph says to three clips."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(graph), options)
    frontend = Frontend(FrontendOptions(), cmvn)
    leads = []
    for seed in range(3):
        rows = frontend(speech_like(5.0, seed=seed))
        feed = {
            "speech": rows[np.newaxis],
            "speech_lengths": np.array([len(rows)], np.int32),
            "language": np.array([0], np.int32),
            "textnorm": np.array([14], np.int32),
        }
        logits = np.asarray(session.run(["ctc_logits"], feed)[0])[0]
        leads.append(logits[:, 1:].max(axis=1) - logits[:, 0])
    bias = np.zeros(sizes.pieces, np.float32)
    bias[0] = np.quantile(np.concatenate(leads), _BLANK_SHARE)
    return bias


def _quantise(source: Path, target: Path) -> None:
    quantize_dynamic(
        source,
        target,
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        reduce_range=False,
        weight_type=QuantType.QUInt8,
    )


def _write_vocabulary(folder: Path, pieces: list[str]) -> None:
    content = json.dumps(pieces, ensure_ascii=False)
    (folder / "tokens.json").write_text(content, encoding="utf-8")
    proto: Any = sentencepiece_model_pb2  # its messages are made at import
    model = proto.ModelProto()
    kinds = proto.ModelProto.SentencePiece
    control = {"<unk>": kinds.UNKNOWN, "<s>": kinds.CONTROL, "</s>": kinds.CONTROL}
    for number, piece in enumerate(pieces):
        usual = kinds.USER_DEFINED if piece.startswith("<|") else kinds.NORMAL
        model.pieces.add(piece=piece, score=-float(number), type=control.get(piece, usual))
    model.trainer_spec.model_type = proto.TrainerSpec.BPE
    model.trainer_spec.vocab_size = len(pieces)
    model.normalizer_spec.name = "identity"
    name = "chn_jpn_yue_eng_ko_spectok.bpe.model"
    (folder / name).write_bytes(model.SerializeToString())


def _statistics() -> Cmvn:
    """Shift and scale that give clips like speech zero mean and unit variance in each mel bin.

    Without them what all rows share drowns what they differ in, and all say the same piece.
    """
    options = FrontendOptions()
    untouched = Cmvn(np.zeros(options.width, np.float32), np.ones(options.width, np.float32))
    frontend = Frontend(options, untouched)
    energies = [frontend.filterbank(speech_like(5.0, seed=seed)) for seed in range(4)]
    frames = np.concatenate(energies)
    shift = np.tile(-frames.mean(axis=0), options.lfr_window)
    scale = np.tile(1.0 / frames.std(axis=0), options.lfr_window)
    return Cmvn(shift.round(4).astype(np.float32), scale.round(4).astype(np.float32))


def _numbers(values: NDArray[np.float32], separator: str) -> str:
    return separator.join(f"{value:.4f}" for value in values)


def _kaldi_text(cmvn: Cmvn) -> str:
    width = cmvn.shift.size
    shift, scale = _numbers(cmvn.shift, " "), _numbers(cmvn.scale, " ")
    return (
        f"<Nnet>\n<Splice> {width} {width}\n[ 0 ]\n"
        f"<AddShift> {width} {width}\n<LearnRateCoef> 0 [ {shift} ]\n"
        f"<Rescale> {width} {width}\n<LearnRateCoef> 0 [ {scale} ]\n</Nnet>\n"
    )


def _write_sherpa(graph: Path, folder: Path, pieces: list[str], cmvn: Cmvn) -> None:
    model = onnx.load(str(graph))
    names = {"speech": "x", "speech_lengths": "x_length", "textnorm": "text_norm",
             "ctc_logits": "logits"}  # fmt: skip
    for node in model.graph.node:
        for names_used in (node.input, node.output):
            names_used[:] = [names.get(name, name) for name in names_used]
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    del model.graph.output[1:]  # sherpa-onnx's export has the logits alone
    onnx.helper.set_model_props(
        model,
        {
            "model_type": "sense_voice_ctc",
            "lfr_window_size": "7",
            "lfr_window_shift": "6",
            "normalize_samples": "0",
            "neg_mean": _numbers(cmvn.shift, ","),
            "inv_stddev": _numbers(cmvn.scale, ","),
            "vocab_size": str(len(pieces)),
            **{f"lang_{name}": str(number) for name, number in _LANGUAGES.items()},
            "with_itn": "14",
            "without_itn": "15",
        },
    )
    onnx.save(model, str(folder / "model.int8.onnx"))
    lines = "".join(f"{piece} {number}\n" for number, piece in enumerate(pieces))
    (folder / "tokens.txt").write_text(lines, encoding="utf-8")


def _write_half(source: Path, folder: Path) -> None:
    """The model directory once more, its float graph in 16 bits, inputs and logits as well."""
    # Only whoever asks for it pays for this import, a second and 50 MB.
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    folder.mkdir(exist_ok=True)
    model = onnx.load(str(source / "model.onnx"))
    # Positions are counted with Range, which has no 16-bit form.
    blocked = [*DEFAULT_OP_BLOCK_LIST, "Range"]
    onnx.save(convert_float_to_float16(model, op_block_list=blocked), str(folder / "model.onnx"))
    for file in source.iterdir():
        if file.suffix != ".onnx":
            (folder / file.name).write_bytes(file.read_bytes())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=default_folder())
    parser.add_argument("--sherpa", action="store_true", help="also write sherpa-onnx's form")
    parser.add_argument("--half", action="store_true", help="also write 16-bit floats, for a GPU")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print(f"SenseVoice-small at full size, random weights, into {options.folder}")
    build(options.folder, seed=options.seed, sherpa=options.sherpa, half=options.half)


if __name__ == "__main__":
    main()
