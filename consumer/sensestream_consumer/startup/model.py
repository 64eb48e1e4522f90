"""The recogniser that a worker's settings ask for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sensestream_common.contract.errors import SettingsError

from sensestream_consumer.engine import Recogniser, resolve_model
from sensestream_consumer.engine.batching.queue import BatchLimits
from sensestream_consumer.engine.session import choose_device

if TYPE_CHECKING:
    from sensestream_consumer.settings import WorkerSettings

__all__ = ["load_recogniser"]

_ROW_SECONDS = 0.06


def load_recogniser(settings: WorkerSettings, *, warm_up: bool = True) -> Recogniser:
    """The model, loaded and warmed up; `SettingsError` and `ModelError` say what is wrong."""
    if not settings.model:
        raise SettingsError(
            "SENSESTREAM_MODEL is not set: name a SenseVoice model directory, or `demo` for the "
            "embedded model (--model demo), which knows spoken digits only"
        )
    device = choose_device(settings.device)
    limits = BatchLimits(
        rows=max(1, round(settings.batch_seconds / _ROW_SECONDS)),
        max_wait=settings.max_batch_delay_ms / 1000,
    )
    recogniser = Recogniser.load(
        resolve_model(settings.model, allow_download=settings.allow_download),
        device=device,
        vad=Path(settings.vad_model).expanduser() if settings.vad_model else None,
        batching=None if device == "cpu" else limits,
        gpu_mem_limit=settings.gpu_mem_limit,
        cache=Path(settings.model_cache_dir).expanduser() if settings.model_cache_dir else None,
    )
    if warm_up:
        recogniser.warm_up()
    return recogniser
