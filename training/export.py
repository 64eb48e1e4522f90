"""Writing the model directory: ONNX graphs, front-end, vocabulary."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import torch

from training.features import FEATURES, Normalisation
from training.files import copy_into
from training.network import DemoModel, ExportedModel
from training.quantise import quantise_weights
from training.vocabulary import LANGUAGES, WITHOUT_ITN, write_sentencepiece, write_tokens

__all__ = ["export_directory"]

_OPSET = 14
_CONFIG = """\
# The demo model of Sensestream, in the form of SenseVoice's config.yaml.
model: SenseVoiceSmall
encoder: SenseVoiceEncoderSmall
frontend: WavFrontend
frontend_conf:
    fs: 16000
    window: hamming
    n_mels: 80
    frame_length: 25
    frame_shift: 10
    lfr_m: 7
    lfr_n: 6
    # With the library's default of 1.0 the same clip gives another answer each time.
    dither: 0.0
    cmvn_file: null
tokenizer: SentencepiecesTokenizer
tokenizer_conf:
    bpemodel: null
    unk_symbol: <unk>
    split_with_space: true
"""


def export_directory(model: DemoModel, normalisation: Normalisation, directory: Path) -> None:
    """Write every file of a SenseVoice model directory, each appearing whole or not at all."""
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        _write_graph(model, made / "model.onnx")
        quantise_weights(made / "model.onnx", made / "model_quant.onnx")
        normalisation.write(made / "am.mvn")
        (made / "config.yaml").write_text(_CONFIG, encoding="utf-8")
        write_sentencepiece(made / "chn_jpn_yue_eng_ko_spectok.bpe.model")
        write_tokens(made / "tokens.json")
        for file in sorted(made.iterdir()):
            copy_into(file, directory)


def _write_graph(model: DemoModel, path: Path) -> None:
    exported = ExportedModel(copy.deepcopy(model)).eval()
    rows = torch.randn(2, 30, FEATURES, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([30, 20], dtype=torch.int32)
    language = torch.tensor([0, LANGUAGES["en"].input_id], dtype=torch.int32)
    textnorm = torch.full((2,), WITHOUT_ITN, dtype=torch.int32)
    torch.onnx.export(
        exported,
        (rows, lengths, language, textnorm),
        str(path),
        input_names=["speech", "speech_lengths", "language", "textnorm"],
        output_names=["ctc_logits", "encoder_out_lens"],
        dynamic_axes={
            "speech": {0: "batch", 1: "rows"},
            "speech_lengths": {0: "batch"},
            "language": {0: "batch"},
            "textnorm": {0: "batch"},
            "ctc_logits": {0: "batch", 1: "output_rows"},
            "encoder_out_lens": {0: "batch"},
        },
        opset_version=_OPSET,
        # The newer exporter writes a later opset and shapes that do not pad.
        dynamo=False,
    )
