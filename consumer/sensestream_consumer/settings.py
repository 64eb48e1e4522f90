"""The worker's settings: every one is `SENSESTREAM_<NAME>` in the environment and a flag."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode
from sensestream_common.contract.errors import SettingsError
from sensestream_common.settings import PipelineSettings

from sensestream_consumer.warm_list import read_warm_list

__all__ = ["WorkerSettings"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+(/.*)?")


def _cores() -> int:
    """The processor cores this process may use (a container's limit included, where it is set)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class WorkerSettings(PipelineSettings):
    """The model of one worker, the audio it may open, and its limits."""

    model: str = Field(
        default="",
        description="A SenseVoice model directory, a hub name, or `demo` for the embedded model.",
    )
    device: str = Field(
        default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="Where it runs."
    )
    allow_download: bool = Field(default=False, description="Whether a hub name may be downloaded.")
    allow_mixed: bool = Field(
        default=False, description="Join a group whose workers run another recogniser."
    )
    concurrency: int = Field(
        default_factory=_cores, ge=1, le=256, description="Clips transcribed at once on a CPU."
    )
    vad_model: str = Field(
        default="",
        description="An FSMN-VAD model directory, for cutting long audio; empty: by its loudness.",
    )
    max_batch_delay_ms: float = Field(
        default=10.0,
        ge=0,
        le=10_000,
        description="Milliseconds a clip waits for others to batch with, on a GPU.",
    )
    batch_seconds: float = Field(
        default=240.0, gt=0, le=36_000, description="Seconds of audio computed at once, on a GPU."
    )
    gpu_mem_limit: int = Field(
        default=0, ge=0, description="Bytes of a GPU's memory that the model may take; 0: all."
    )
    model_cache_dir: str = Field(
        default="",
        description="Where a model converted for this processor is kept; empty: the user's cache.",
    )
    read_ahead: int = Field(
        default=128,
        ge=1,
        le=10_000,
        description="Entries in flight at once, so that hits pass the engine.",
    )

    audio_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default_factory=lambda: (Path.cwd(),),
        description="Folders that file:// may read, separated as in PATH.",
    )
    max_audio_bytes: int = Field(default=512 * 2**20, ge=1, description="Bytes of one recording.")
    max_audio_seconds: float = Field(
        default=4 * 3600.0, gt=0, description="Seconds of one recording."
    )
    fetch_timeout: float = Field(
        default=30.0, gt=0, description="Seconds for one fetch as a whole."
    )
    allow_private_hosts: bool = Field(
        default=False,
        description="Whether http(s):// may reach private, loopback and link-local addresses.",
    )
    redis_prefixes: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Key prefixes that redis:<key> may read beside uploads, comma-separated.",
    )
    s3_buckets: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Buckets, or bucket/folder, that s3:// may read, comma-separated; *: whatever "
        "the worker's credentials open. Needs the extra [s3].",
    )
    trust_digest: bool = Field(
        default=True,
        description="Answer from the cache by the sender's digest, without reading the audio.",
    )

    max_attempts: int = Field(
        default=3, ge=1, le=1000, description="Starts before the dead letter."
    )
    reclaim_after: float = Field(
        default=15.0, ge=0.2, description="Seconds until a silent worker's entries are replayed."
    )
    drain_timeout: float = Field(default=30.0, ge=0, description="Seconds to finish on SIGTERM.")

    result_ttl: int = Field(
        default=604_800, ge=1, description="Seconds a result stays in the cache."
    )
    warm_list: str = Field(
        default="",
        description="A file of recordings to transcribe before they are asked for, one a line.",
    )
    warn_hit_rate_below: float = Field(
        default=0.0, ge=0, le=1, description="Warn when fewer requests are cache hits; 0: never."
    )
    warn_results_above: int = Field(
        default=0, ge=0, description="Warn when more results are kept; 0: never."
    )
    transcripts_ttl: int = Field(
        default=86_400, ge=1, description="Seconds an outcome stays readable."
    )
    transcripts_max: int = Field(default=1_000_000, ge=1, description="Outcomes kept at most.")
    dead_max: int = Field(default=100_000, ge=1, description="Dead letters kept at most.")

    metrics_port: int = Field(
        default=0,
        ge=0,
        le=65_535,
        description="Port of /metrics, /health and /health/ready; 0: none of them.",
    )
    metrics_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that metrics_port listens on."
    )

    @field_validator("warm_list")
    @classmethod
    def _list_is_readable(cls, value: str) -> str:
        if value:
            try:
                read_warm_list(Path(value))
            except SettingsError as error:
                raise ValueError(str(error)) from error
        return value

    @field_validator("audio_roots", mode="before")
    @classmethod
    def _split_roots(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part) for part in value.split(os.pathsep) if part)
        return value

    @field_validator("audio_roots")
    @classmethod
    def _roots_exist(cls, roots: tuple[Path, ...]) -> tuple[Path, ...]:
        for root in roots:
            if not root.is_dir():
                raise ValueError(f"{root} is not a folder")
        return tuple(root.resolve() for root in roots)

    @field_validator("redis_prefixes", "s3_buckets", mode="before")
    @classmethod
    def _split_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("s3_buckets")
    @classmethod
    def _name_buckets(cls, buckets: tuple[str, ...]) -> tuple[str, ...]:
        buckets = tuple(bucket.removeprefix("s3://") for bucket in buckets)
        for bucket in buckets:
            if bucket != "*" and not _BUCKET.fullmatch(bucket):
                raise ValueError(f"{bucket!r} is not a bucket, bucket/folder or *")
        return buckets
