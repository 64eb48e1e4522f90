"""The settings of a client, as entry points read them."""

from __future__ import annotations

from pydantic import Field
from sensestream_common.settings import PipelineSettings

__all__ = ["MAX_UPLOAD_BYTES", "ProducerSettings"]

MAX_UPLOAD_BYTES = 100 * 1024 * 1024


class ProducerSettings(PipelineSettings):
    """The settings of a client: its pipeline, and the limits of its submits."""

    max_upload_bytes: int = Field(
        default=MAX_UPLOAD_BYTES, ge=1, description="Largest file to upload, in bytes."
    )
    answer_cache_hits: bool = Field(
        default=True,
        description="Answer a request whose result is cached as it is submitted; 0: leave it to a "
        "worker.",
    )
