"""A certificate for localhost, with its key: trusted by the tests alone."""

from __future__ import annotations

from pathlib import Path

__all__ = ["CERTIFICATE"]

CERTIFICATE = Path(__file__).parent / "localhost.pem"
