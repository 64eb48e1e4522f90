"""The settings of a client, as entry points read them."""

from __future__ import annotations

from pydantic import Field
from sensestream_common.settings import PipelineSettings

__all__ = ["MAX_UPLOAD_BYTES", "ProducerSettings"]

MAX_UPLOAD_BYTES = 100 * 1024 * 1024


class ProducerSettings(PipelineSettings):
    """Which pipeline to submit to, and what a client may send."""

    max_upload_bytes: int = Field(
        default=MAX_UPLOAD_BYTES, ge=1, description="The largest file that is uploaded, in bytes."
    )
    answer_cache_hits: bool = Field(
        default=True,
        description="Answer cache hits as they are submitted; 0 leaves them to the workers.",
    )
