"""Reads the settings of an FSMN voice activity model from its `config.yaml`."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.model.configuration import frontend_options, read_mapping

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from sensestream_consumer.engine.frontend import FrontendOptions

__all__ = ["VadOptions", "read_vad_options"]

# Settings of FunASR's detector that this one has a single value for.
_FIXED = {
    "sample_rate": 16_000,
    "detect_mode": 1,  # many utterances a recording
    "frame_in_ms": 10,
    "frame_length_ms": 25,
}
# Loudness below which a frame never counts as speech. Samples from -1 to 1 reach no frame below
# -60 dB, nor one 86 dB below another, so that the published -100 switches both rules off.
_DECIBELS = {"decibel_thres": -60.0, "snr_thres": -87.0}
_MAPPINGS = ("vadPostArgs", "model_conf")  # the names of two exporters


@dataclass(frozen=True, slots=True)
class VadOptions:
    """FunASR's names, and its defaults for fsmn-vad; times in milliseconds."""

    max_end_silence_time: int = 800  # a pause this long ends an utterance
    window_size_ms: int = 200  # states are decided over this many
    sil_to_speech_time_thres: int = 150  # speech in the window that begins an utterance
    speech_to_sil_time_thres: int = 150  # speech in the window at which a pause begins
    do_extend: int = 1
    lookback_time_start_point: int = 200  # ms kept before the window that began an utterance
    lookahead_time_end_point: int = 100  # ms kept after its end
    max_single_segment_time: int = 60_000
    speech_noise_thres: float = 0.6  # by how much speech must be likelier than silence
    speech_2_noise_ratio: float = 1.0
    sil_pdf_ids: tuple[int, ...] = (0,)  # outputs of the model that mean silence


def read_vad_options(path: Path) -> tuple[VadOptions, FrontendOptions]:
    """The detector's and the front-end's settings in `path`; `ModelError` names a bad one."""
    config = read_mapping(path)
    frontend = config.get("WavFrontend")
    conf = (frontend if isinstance(frontend, dict) else config).get("frontend_conf")
    detector = next((config[name] for name in _MAPPINGS if name in config), None)
    if not isinstance(conf, dict) or not isinstance(detector, dict):
        raise ModelError(
            f"{path} has no frontend_conf beside one of {' and '.join(_MAPPINGS)}: expected the "
            "config.yaml of an FSMN-VAD model"
        )
    return _vad_options(path, detector), frontend_options(path, conf)


def _vad_options(path: Path, conf: Mapping[Any, Any]) -> VadOptions:
    for name, value in _FIXED.items():
        if conf.get(name, value) != value:
            raise ModelError(f"{path}: {name} is {conf[name]!r}, this detector has only {value}")
    for name, limit in _DECIBELS.items():
        if _number(path, name, conf.get(name, -100.0)) > limit:
            raise ModelError(
                f"{path}: {name} is {conf[name]!r}, this detector applies none above {limit:g} dB"
            )
    ids = conf.get("sil_pdf_ids", [0])
    if not isinstance(ids, list) or not ids or not all(_is_count(number) for number in ids):
        raise ModelError(f"{path}: sil_pdf_ids is {ids!r}, expected a list of output numbers")
    chosen: dict[str, Any] = {"sil_pdf_ids": tuple(ids)}
    for field in fields(VadOptions):
        if field.name not in conf or field.name in chosen:
            continue
        value = conf[field.name]
        if field.type == "int" and not _is_count(value):
            raise ModelError(f"{path}: {field.name} is {value!r}, expected a whole number >= 0")
        chosen[field.name] = value if field.type == "int" else _number(path, field.name, value)
    options = VadOptions(**chosen)
    if options.window_size_ms < _FIXED["frame_in_ms"]:
        raise ModelError(f"{path}: window_size_ms is {options.window_size_ms}, expected 10 or more")
    return options


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _number(path: Path, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ModelError(f"{path}: {name} is {value!r}, expected a number")
    return float(value)
