"""Reads `am.mvn`, kaldi's text form of the shift and scale of the feature rows."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.frontend import Cmvn

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["read_cmvn"]


def read_cmvn(path: Path, width: int) -> Cmvn:
    """The statistics in `path`; `ModelError` unless both vectors have `width` numbers."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read as kaldi's text form of CMVN: {error}") from error
    return Cmvn(_vector(path, text, "AddShift", width), _vector(path, text, "Rescale", width))


def _vector(path: Path, text: str, component: str, width: int) -> NDArray[np.float32]:
    found = re.search(rf"<{component}>[^\[]*?<LearnRateCoef>\s+\S+\s+\[([^\]]*)\]", text)
    if found is None:
        raise ModelError(
            f"{path} has no <{component}> vector: expected the am.mvn of a SenseVoice model"
        )
    try:
        numbers = np.array(found[1].split(), dtype=np.float64).astype(np.float32)
    except ValueError as error:
        raise ModelError(f"{path}: <{component}> holds something that is no number: {error}") from (
            error
        )
    if numbers.shape != (width,) or not np.isfinite(numbers).all():
        raise ModelError(
            f"{path}: <{component}> has {numbers.size} numbers, expected {width} finite ones "
            "(mel bins times stacked frames)"
        )
    return numbers
