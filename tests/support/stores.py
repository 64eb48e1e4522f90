"""The environment of a worker that reads from a store on this machine, and from no other."""

from __future__ import annotations

import pytest

__all__ = ["store_environment", "use_store"]


def store_environment(endpoint: str) -> dict[str, str]:
    """Credentials and endpoint as they come to a worker, whatever this machine has of its own."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "worker",
        "AWS_SECRET_ACCESS_KEY": "worker-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_CONFIG_FILE": "/nonexistent/config",
        "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent/credentials",
        "AWS_EC2_METADATA_DISABLED": "true",
        "NO_PROXY": "127.0.0.1",
    }


def use_store(monkeypatch: pytest.MonkeyPatch, endpoint: str) -> None:
    """Make this process such a worker."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL_S3", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in store_environment(endpoint).items():
        monkeypatch.setenv(name, value)
