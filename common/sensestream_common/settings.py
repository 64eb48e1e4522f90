"""The settings that every process of a pipeline shares, and how all settings are read.

Only entry points read the environment; libraries are handed a settings object.
"""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from sensestream_common.contract.errors import SettingsError
from sensestream_common.contract.keys import Keys

__all__ = ["ENVIRONMENT_PREFIX", "PipelineSettings", "load_settings"]

ENVIRONMENT_PREFIX = "SENSESTREAM_"
_SCHEMES = ("redis://", "rediss://", "unix://", "redis+sentinel://")

S = TypeVar("S", bound="PipelineSettings")


class PipelineSettings(BaseSettings):
    """Which pipeline, on which Redis, and how long it keeps things."""

    model_config = SettingsConfigDict(
        env_prefix=ENVIRONMENT_PREFIX, extra="ignore", frozen=True, validate_default=True
    )

    redis_url: str = Field(
        default="redis://127.0.0.1:6379/0",
        description="The Redis that is queue and cache: redis://, rediss://, unix:// or "
        "redis+sentinel://HOST:PORT,HOST:PORT/MASTER/DB.",
    )
    pipeline: str = Field(default="sensestream", description="The name in front of all keys.")
    request_ttl: int = Field(
        default=86_400, ge=1, description="Seconds a request's state is kept after its outcome."
    )
    max_backlog: int = Field(
        default=1_000_000, ge=1, description="Requests that may wait before submits are refused."
    )

    @field_validator("redis_url")
    @classmethod
    def _scheme(cls, value: str) -> str:
        if not value.startswith(_SCHEMES):
            raise ValueError(f"must begin with one of {', '.join(_SCHEMES)}")
        return value

    @field_validator("pipeline")
    @classmethod
    def _name(cls, value: str) -> str:
        try:
            Keys(value)
        except SettingsError as error:
            raise ValueError(str(error)) from None
        return value

    @property
    def keys(self) -> Keys:
        """The keys of the pipeline."""
        return Keys(self.pipeline)


def load_settings(kind: type[S], **flags: Any) -> S:
    """The settings from the environment, overridden by the flags that are not `None`.

    Raises `SettingsError` with one line for each setting that is wrong, naming its variable.
    """
    try:
        return kind(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as error:
        raise SettingsError("\n".join(_line(detail) for detail in error.errors())) from None


def _line(detail: Any) -> str:
    name = ".".join(str(part) for part in detail["loc"]) or "settings"
    reason = str(detail["msg"]).removeprefix("Value error, ")
    return f"{ENVIRONMENT_PREFIX}{name.upper()}={detail['input']!r}: {reason}"
