"""The gateway's settings: each is `SENSESTREAM_<NAME>` in the environment, and a flag."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import NoDecode

from sensestream_producer.gateway.auth import ApiKey
from sensestream_producer.gateway.signing import secret_bytes
from sensestream_producer.settings import ProducerSettings

__all__ = ["GatewaySettings"]

_Words = Annotated[tuple[str, ...], NoDecode]
_LISTS = ("api_keys", "cors_origins", "allowed_hosts", "references", "webhook_secret")


class GatewaySettings(ProducerSettings):
    """Address, keys, limits, uploads and webhooks of a gateway."""

    # Not GATEWAY_PORT: Kubernetes gives pods SENSESTREAM_GATEWAY_PORT=tcp://… for a service of
    # that name.
    http_host: str = Field(default="127.0.0.1", min_length=1, description="Address to listen on.")
    http_port: int = Field(
        default=8000, ge=0, le=65_535, description="Port to listen on; 0 takes any free port."
    )
    api_keys: _Words = Field(
        default=(),
        description="Keys of callers: NAME:SCOPES:SHA256[:PER_MINUTE], comma-separated; "
        "`sensestream gateway --new-key NAME` makes one. Scopes are submit, read and operate.",
    )
    allow_anonymous: bool = Field(
        default=False, description="Allow listening beyond loopback without any key."
    )
    rate_limit: int = Field(
        default=0,
        ge=0,
        description="Requests a minute for a key without a limit of its own, or for an address "
        "where there are no keys; 0 for no limit.",
    )
    allowed_hosts: _Words = Field(
        default=(),
        description="Host names that the gateway answers to, comma-separated; empty for any name "
        "where keys are set, else those of loopback.",
    )
    cors_origins: _Words = Field(
        default=(),
        description="Origins whose pages may call the gateway, such as https://app.example.org, "
        "comma-separated.",
    )

    max_body_bytes: int = Field(
        default=8 * 2**20, ge=1024, description="Bytes that a body may have that is not an upload."
    )
    max_uploads: int = Field(
        default=32, ge=1, description="Uploads received at once; further ones wait."
    )
    max_connections: int = Field(
        default=4096, ge=1, description="Connections open at once; further ones get a 503."
    )
    max_subscribers: int = Field(default=256, ge=1, description="Streams of events open at once.")
    receive_timeout: float = Field(
        default=30.0,
        gt=0,
        description="Seconds for the head of a request, and for each pause within its body.",
    )
    wait_timeout: float = Field(
        default=300.0, gt=0, description="Seconds that a call may wait for its transcript."
    )
    drain_timeout: float = Field(
        default=30.0, ge=0, description="Seconds to finish calls under way on SIGTERM."
    )

    uploads: str = Field(
        default="redis",
        description="Store of uploads until a worker reads them: redis, a folder below every "
        "worker's audio roots, or s3://BUCKET/FOLDER.",
    )
    references: _Words = Field(
        default=("http", "https", "data", "s3"),
        description="Schemes of references that callers may submit, comma-separated; file and "
        "redis would let them read all that the workers may read.",
    )

    webhook_secret: _Words = Field(
        default=(),
        description="Secret that signs webhooks: whsec_ and base64 of 24 to 64 bytes; two, "
        "comma-separated, while one replaces the other. Empty for no webhooks.",
    )
    webhook_timeout: float = Field(
        default=10.0, gt=0, description="Seconds for one try to deliver a webhook."
    )
    webhook_retry_after: float = Field(
        default=10.0,
        gt=0,
        description="Seconds until a webhook is tried again; doubled each time, up to an hour.",
    )
    webhook_tries: int = Field(default=20, ge=1, description="Tries to deliver a webhook.")
    webhook_allow_private: bool = Field(
        default=False,
        description="Allow webhooks to private, loopback and link-local addresses.",
    )

    @field_validator(*_LISTS, mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("api_keys")
    @classmethod
    def _read_keys(cls, keys: tuple[str, ...]) -> tuple[str, ...]:
        names = [ApiKey.parse(key).name for key in keys]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two keys are named {name!r}")
        return keys

    @field_validator("webhook_secret")
    @classmethod
    def _read_secrets(cls, secrets: tuple[str, ...]) -> tuple[str, ...]:
        for secret in secrets:
            secret_bytes(secret)
        return secrets

    @field_validator("uploads")
    @classmethod
    def _known_store(cls, value: str) -> str:
        if value == "redis" or value.startswith(("/", "s3://")):
            return value
        raise ValueError("must be redis, an absolute folder or s3://BUCKET/FOLDER")
