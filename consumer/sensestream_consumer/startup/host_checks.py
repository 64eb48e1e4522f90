"""Checks of a worker's host: one ONNX Runtime or two, and folders that it can read."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from itertools import islice
from pathlib import Path

from sensestream_common.findings import Finding, fault, fine, warning

from sensestream_consumer.settings import WorkerSettings

__all__ = ["host_findings"]

_RUNTIMES = ("onnxruntime", "onnxruntime-gpu")
_TRIED = 100  # names of a folder: enough to notice files of another user, whatever its size


def host_findings(settings: WorkerSettings) -> list[Finding]:
    """Cheap enough for every start; the model and its device are found out by loading it."""
    return [_runtimes(), *(_root(root) for root in settings.audio_roots)]


def _runtimes() -> Finding:
    found = [f"{name} {number}" for name in _RUNTIMES if (number := _installed(name))]
    if not found:
        return fault(
            "runtime",
            "ONNX Runtime is not installed",
            "pip install 'sensestream-consumer[cpu]', or [gpu] on a machine with an NVIDIA GPU.",
        )
    if len(found) > 1:
        return warning(
            "runtime",
            f"{' and '.join(found)} are both installed: the files of the one written last are "
            "used, and with the other goes CUDA, without a word",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them again.",
        )
    return fine("runtime", found[0])


def _installed(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def _root(root: Path) -> Finding:
    names, closed = 0, []
    try:
        for path in islice(_names(root), _TRIED):
            names += 1
            if not _opens(path):
                closed.append(path)
    except OSError as error:
        return fault(
            "audio_roots",
            f"{root} cannot be listed by user {os.geteuid()}: {error.strerror}",
            "Give the worker's user read and search permission on it.",
        )
    if closed:
        return warning(
            "audio_roots",
            f"{len(closed)} of the first {names} names in {root} cannot be read by user "
            f"{os.geteuid()}, such as {closed[0].name}",
            "Give the worker's user permission to read them, or run it as their owner.",
        )
    return fine("audio_roots", f"{root} is readable" if names else f"{root} is readable and empty")


def _names(root: Path) -> Iterator[Path]:
    with os.scandir(root) as found:
        for entry in found:
            if (
                entry.is_dir() or entry.is_file()
            ):  # the others are no audio: pipes, devices, dead links
                yield Path(entry.path)


def _opens(path: Path) -> bool:
    try:
        # A folder opens too; without blocking, should it have become a pipe meanwhile.
        os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True
