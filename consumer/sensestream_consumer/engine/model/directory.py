"""Finds the files of a model directory, and names what is missing."""

from __future__ import annotations

import importlib.resources
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sensestream_common.contract.errors import ModelError

__all__ = ["FLOAT_GRAPHS", "INT8_GRAPHS", "ModelFiles", "find_model_files", "resolve_model"]

FLOAT_GRAPHS = ("model.onnx",)
INT8_GRAPHS = ("model_quant.onnx", "model.int8.onnx")  # FunASR's name and sherpa-onnx's
VOCABULARIES = ("chn_jpn_yue_eng_ko_spectok.bpe.model", "tokens.json", "tokens.txt")

_CHOICES = (
    'a model directory (model.onnx or model_quant.onnx with its vocabulary), "demo" for the '
    "embedded model, or a ModelScope name such as iic/SenseVoiceSmall-onnx (extra [hub], and "
    "only with downloads allowed: SENSESTREAM_ALLOW_DOWNLOAD=1)"
)


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a directory that one recogniser reads."""

    directory: Path
    graph: Path
    vocabulary: Path

    @property
    def config(self) -> Path:
        """The front-end's options, in FunASR's layout."""
        return self.directory / "config.yaml"

    @property
    def cmvn(self) -> Path:
        """The shift and scale of the feature rows, in kaldi's text form."""
        return self.directory / "am.mvn"

    def require(self, path: Path, meaning: str) -> Path:
        """The path itself; `ModelError` where there is no file."""
        if not path.is_file():
            raise ModelError(f"{self.directory} has no {path.name}: expected {meaning} there")
        return path


def find_model_files(directory: Path, *, prefer_int8: bool) -> ModelFiles:
    """The graph that suits the device, and the vocabulary, in `directory`."""
    if not directory.is_dir():
        raise ModelError(f"{directory} is no directory: expected {_CHOICES}")
    graphs = (*INT8_GRAPHS, *FLOAT_GRAPHS) if prefer_int8 else (*FLOAT_GRAPHS, *INT8_GRAPHS)
    graph = _first(directory, graphs, "the SenseVoice graph as")
    return ModelFiles(directory, graph, _first(directory, VOCABULARIES, "a vocabulary as"))


def resolve_model(name: str, *, allow_download: bool) -> Path:
    """The directory that a model's name means.

    `demo` is the embedded model; an existing directory is itself; anything else is a name on
    ModelScope, fetched only when `allow_download` and the extra [hub] is installed. Raises
    `ModelError`, which names the choices.
    """
    if not name.strip():
        raise ModelError(f"no model is named: expected {_CHOICES}")
    if name == "demo":
        return _embedded("demo")
    directory = Path(name).expanduser()
    if directory.is_dir():
        return directory
    if directory.exists():
        raise ModelError(f"{name} is a file, not a model directory: expected {_CHOICES}")
    if not allow_download or not _is_hub_name(name):
        raise ModelError(f"{name} is no model directory on this machine: expected {_CHOICES}")
    return _download(name)


def _first(directory: Path, names: tuple[str, ...], meaning: str) -> Path:
    for name in names:
        if (directory / name).is_file():
            return directory / name
    raise ModelError(f"{directory} has no {names[0]}: expected {meaning} {' or '.join(names)}")


def _embedded(name: str) -> Path:
    # A path of its own: ONNX Runtime reads files, and wheels are installed unpacked.
    directory = Path(str(importlib.resources.files("sensestream_consumer") / "models" / name))
    if not directory.is_dir():
        raise ModelError(
            f"the embedded model is missing at {directory}: install sensestream-consumer again"
        )
    return directory


def _is_hub_name(name: str) -> bool:
    owner, separator, model = name.partition("/")
    return bool(separator and owner and model) and "/" not in model and ".." not in name


def _download(name: str) -> Path:
    if importlib.util.find_spec("modelscope") is None:
        raise ModelError(
            f"{name} would come from ModelScope, whose client is not installed: "
            "pip install 'sensestream-consumer[hub]', or name a model directory"
        )
    # Only a worker that was told to download pays for this import.
    hub: Any = importlib.import_module("modelscope.hub.snapshot_download")
    try:
        return Path(hub.snapshot_download(name))
    except Exception as error:  # the hub's client raises its own and its transport's
        raise ModelError(f"{name} could not be fetched from ModelScope: {error}") from error
