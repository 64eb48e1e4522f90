"""What sherpa-onnx hears, in a process of its own: it brings an ONNX Runtime of its own.

`python sherpa_process.py MODEL LANGUAGE ITN < clips.json > heard.json`: a directory that
`for_sherpa` wrote, a language or `auto`, `1` or `0`; paths of int16 arrays (.npy, 16 kHz) in, one
object a clip out.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(model: Path, language: str, itn: bool) -> None:
    sherpa: Any = importlib.import_module("sherpa_onnx")  # installed for this test alone
    recogniser = sherpa.OfflineRecognizer.from_sense_voice(
        model=str(model / "model.onnx"),
        tokens=str(model / "tokens.txt"),
        num_threads=1,
        language=language,
        use_itn=itn,
    )
    heard = []
    for path in json.load(sys.stdin):
        stream = recogniser.create_stream()
        stream.accept_waveform(16_000, np.load(path).astype(np.float32) / 32768)
        recogniser.decode_stream(stream)
        said = stream.result
        heard.append(
            {
                "text": said.text,
                "tokens": said.tokens,
                "times": said.timestamps,
                "tags": [said.lang, said.emotion, said.event],
            }
        )
    json.dump(heard, sys.stdout)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "1")
