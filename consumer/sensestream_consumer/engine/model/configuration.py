"""Reads the front-end's options from a model's `config.yaml`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml
from sensestream_common.contract.errors import ModelError

from sensestream_consumer.engine.frontend import SAMPLE_RATE, FrontendOptions

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["frontend_options", "read_frontend_options", "read_mapping"]

# FunASR's name of an option, and ours.
_CHOICES = {
    "n_mels": "mels",
    "frame_length": "frame_length_ms",
    "frame_shift": "frame_shift_ms",
    "lfr_m": "lfr_window",
    "lfr_n": "lfr_shift",
}
# Options this front-end has one value for.
_FIXED = {
    "fs": SAMPLE_RATE,
    "window": "hamming",
    "snip_edges": True,
    "upsacle_samples": True,  # FunASR's own spelling
    "filter_length_min": -1,
    "filter_length_max": -1,
}
# Dither would make transcripts depend on chance, so it is 0 whatever the file says; the
# statistics are looked for beside the file.
_IGNORED = frozenset({"dither", "cmvn_file"})
_LARGEST = 1000


def read_frontend_options(path: Path) -> FrontendOptions:
    """The options in `path`'s `frontend_conf`; `ModelError` for what this front-end is not."""
    conf = read_mapping(path).get("frontend_conf")
    if not isinstance(conf, dict):
        raise ModelError(
            f"{path} has no frontend_conf mapping: expected the config.yaml of a SenseVoice model"
        )
    return frontend_options(path, conf)


def frontend_options(path: Path, conf: Mapping[Any, Any]) -> FrontendOptions:
    """The options in a `frontend_conf` that was read from `path`; `ModelError` likewise."""
    chosen: dict[str, int] = {}
    for name, value in ((str(name), value) for name, value in conf.items()):
        if name in _CHOICES:
            chosen[_CHOICES[name]] = _count(path, name, value)
        elif name in _FIXED:
            if value != _FIXED[name]:
                raise ModelError(
                    f"{path}: frontend_conf.{name} is {value!r}, "
                    f"this front-end has only {_FIXED[name]!r}"
                )
        elif name not in _IGNORED:
            raise ModelError(
                f"{path}: frontend_conf.{name} is not known here (known: "
                f"{', '.join(sorted({*_CHOICES, *_FIXED, *_IGNORED}))})"
            )
    return FrontendOptions(**chosen)


def read_mapping(path: Path) -> dict[str, Any]:
    """The YAML mapping in `path`; `ModelError` if it is none."""
    try:
        config = yaml.safe_load(path.read_bytes())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(f"{path} cannot be read as YAML: {error}") from error
    return {str(name): value for name, value in config.items()} if isinstance(config, dict) else {}


def _count(path: Path, name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _LARGEST:
        raise ModelError(
            f"{path}: frontend_conf.{name} is {value!r}, expected a whole number from 1 "
            f"to {_LARGEST}"
        )
    return value
