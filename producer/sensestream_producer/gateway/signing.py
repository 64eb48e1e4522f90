"""Signatures of webhooks, as https://www.standardwebhooks.com has them.

    signature = base64(HMAC-SHA256(secret, "{id}.{timestamp}.{body}"))

Whoever receives OpenAI's, Svix' or others' webhooks has a library that verifies these.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets as random
from collections.abc import Sequence

__all__ = ["new_secret", "secret_bytes", "signed_headers"]

_PREFIX = "whsec_"
_LENGTHS = range(24, 65)  # bytes, as the standard has it


def new_secret() -> str:
    return _PREFIX + base64.b64encode(random.token_bytes(32)).decode()


def secret_bytes(secret: str) -> bytes:
    """The key in a `whsec_…`; `ValueError` for what is none."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or len(key) not in _LENGTHS:
        # The value itself stays out of the message: it is a secret with a slip in it.
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
    return key


def signed_headers(
    secrets: Sequence[str], delivery: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three headers of a delivery; `timestamp` is in seconds. A signature for each secret."""
    content = f"{delivery}.{timestamp}.".encode() + body
    signatures = [
        hmac.new(secret_bytes(secret), content, hashlib.sha256).digest() for secret in secrets
    ]
    return {
        "webhook-id": delivery,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(
            "v1," + base64.b64encode(signature).decode() for signature in signatures
        ),
    }
