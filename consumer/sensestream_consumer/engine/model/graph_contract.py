"""The two graph contracts that SenseVoice is exported with, told apart by input names.

FunASR's graph (`speech, speech_lengths, language, textnorm`) has its front-end described by
`config.yaml` and `am.mvn` beside it; sherpa-onnx's (`x, x_length, language, text_norm`) carries
statistics and ids in its own metadata.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.frontend import Cmvn, FrontendOptions
from sensestream_consumer.engine.model.cmvn import read_cmvn
from sensestream_consumer.engine.model.configuration import read_frontend_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from sensestream_consumer.engine.model.directory import ModelFiles

__all__ = ["FUNASR", "SHERPA", "Contract", "Description", "contract_of", "describe"]


@dataclass(frozen=True, slots=True)
class Contract:
    """Names of a graph's inputs and of the output that holds the logits."""

    name: str
    features: str  # [clips, rows, width]
    lengths: str  # [clips], rows without the four that the graph puts before them
    language: str  # [clips]
    textnorm: str  # [clips]
    logits: str  # [clips, 4 + rows, tokens]

    @property
    def inputs(self) -> tuple[str, str, str, str]:
        """Names in the order of `Graph.run`'s arguments."""
        return self.features, self.lengths, self.language, self.textnorm


FUNASR = Contract("funasr", "speech", "speech_lengths", "language", "textnorm", "ctc_logits")
SHERPA = Contract("sherpa-onnx", "x", "x_length", "language", "text_norm", "logits")

# SenseVoice-small's ids of the language and text normalisation queries.
_LANGUAGE_IDS = {"auto": 0, "zh": 3, "en": 4, "yue": 7, "ja": 11, "ko": 12, "nospeech": 13}
_WITH_ITN, _WITHOUT_ITN = 14, 15


@dataclass(frozen=True, slots=True)
class Description:
    """What a graph wants to be fed with."""

    options: FrontendOptions
    cmvn: Cmvn
    languages: Mapping[str, int]
    with_itn: int
    without_itn: int


def contract_of(graph: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Contract:
    """The contract whose names the graph has; `ModelError` lists the names it found."""
    for contract in (FUNASR, SHERPA):
        if set(inputs) == set(contract.inputs) and contract.logits in outputs:
            return contract
    expected = " or ".join(
        f"({', '.join(contract.inputs)}) to {contract.logits}" for contract in (FUNASR, SHERPA)
    )
    raise ModelError(
        f"{graph} is not a SenseVoice graph: it has inputs ({', '.join(inputs)}) and outputs "
        f"({', '.join(outputs)}), expected {expected}"
    )


def describe(contract: Contract, files: ModelFiles, metadata: Mapping[str, str]) -> Description:
    """The description that belongs to the contract; `ModelError` names what is missing."""
    if contract is SHERPA:
        return _from_metadata(files.graph, metadata)
    options = read_frontend_options(files.require(files.config, "the model's configuration"))
    cmvn = read_cmvn(files.require(files.cmvn, "the statistics of its features"), options.width)
    return Description(options, cmvn, _LANGUAGE_IDS, _WITH_ITN, _WITHOUT_ITN)


def _from_metadata(graph: Path, metadata: Mapping[str, str]) -> Description:
    options = FrontendOptions(
        lfr_window=_integer(graph, metadata, "lfr_window_size", smallest=1),
        lfr_shift=_integer(graph, metadata, "lfr_window_shift", smallest=1),
    )
    if _integer(graph, metadata, "normalize_samples") != 0:
        raise ModelError(
            f"{graph}: metadata normalize_samples is {metadata['normalize_samples']!r}, this "
            "front-end has 0 (samples in the range of 16 bits)"
        )
    languages = {
        name: _integer(graph, metadata, f"lang_{name}")
        for name in _LANGUAGE_IDS
        # sherpa-onnx never reads this one, so a graph may lack it; the id is SenseVoice's own.
        if name != "nospeech" or "lang_nospeech" in metadata
    }
    return Description(
        options,
        Cmvn(
            _vector(graph, metadata, "neg_mean", options.width),
            _vector(graph, metadata, "inv_stddev", options.width),
        ),
        {**_LANGUAGE_IDS, **languages},
        _integer(graph, metadata, "with_itn"),
        _integer(graph, metadata, "without_itn"),
    )


def _value(graph: Path, metadata: Mapping[str, str], name: str) -> str:
    if name not in metadata:
        raise ModelError(
            f"{graph} has the input names of sherpa-onnx's export and no {name} in its metadata "
            f"(found: {', '.join(sorted(metadata)) or 'nothing'})"
        )
    return metadata[name]


def _integer(graph: Path, metadata: Mapping[str, str], name: str, smallest: int = 0) -> int:
    text = _value(graph, metadata, name)
    if not text.isdecimal() or int(text) < smallest:
        raise ModelError(f"{graph}: metadata {name} is {text!r}, expected a number >= {smallest}")
    return int(text)


def _vector(graph: Path, metadata: Mapping[str, str], name: str, width: int) -> NDArray[np.float32]:
    text = _value(graph, metadata, name)
    try:
        numbers = np.array(text.split(","), dtype=np.float64).astype(np.float32)
    except ValueError as error:
        raise ModelError(f"{graph}: metadata {name} is no list of numbers: {error}") from error
    if numbers.shape != (width,) or not np.isfinite(numbers).all():
        raise ModelError(
            f"{graph}: metadata {name} has {numbers.size} numbers, expected {width} finite ones"
        )
    return numbers
