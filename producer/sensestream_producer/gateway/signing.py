"""Signatures of webhooks, as https://www.standardwebhooks.com specifies them.

    signature = base64(HMAC-SHA256(secret, "{id}.{timestamp}.{body}"))

The libraries for OpenAI's, Svix' and other webhooks verify them.
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
_LENGTHS = range(24, 65)  # bytes, by the standard


def new_secret() -> str:
    """A new random secret, as receivers and the settings take it."""
    return _PREFIX + base64.b64encode(random.token_bytes(32)).decode()


def secret_bytes(secret: str) -> bytes:
    """The bytes of a `whsec_…` secret; `ValueError` for anything else."""
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(_PREFIX) or len(key) not in _LENGTHS:
        # The message does not repeat the value: it may be a secret with a typo.
        raise ValueError("must be whsec_ and the base64 of 24 to 64 bytes")
    return key


def signed_headers(
    secrets: Sequence[str], delivery: str, timestamp: int, body: bytes
) -> dict[str, str]:
    """The three headers of a webhook, with a signature for each secret.

    `delivery` is the id that all tries of a webhook share; `timestamp` is in seconds since the
    epoch.
    """
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
