"""References and addresses as they may be shown: without the parts that may be secret."""

from __future__ import annotations

import re

__all__ = ["redacted"]

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):(.*)", re.DOTALL)
_HOST = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(:[0-9]*)?")


def redacted(reference: str) -> str:
    """The reference without user info, query string, fragment and inline bytes.

    As outcomes, logs and commands repeat it. A path keeps its `?` only where it has no query
    (`file:`, `redis:<key>`). Where it cannot be told where a password ends, nothing of it is left.
    """
    if reference.startswith("file:///"):  # it has no host, and is the usual case
        return reference
    match = _SCHEME.fullmatch(reference)
    if match is None:
        return _without_user(reference.partition("?")[0])
    scheme, rest = match[1].lower(), match[2]
    if scheme == "data":
        return f"data:{re.split('[;,]', rest, maxsplit=1)[0]}"
    if scheme in ("file", "redis"):
        # Neither has a user, but the sender may have written redis://user:password@host.
        return f"{scheme}:{_without_user(rest) if rest.startswith('//') else rest}"
    if not rest.startswith("//"):
        return f"{scheme}:…"
    host, slash, path = re.split("[?#]", rest[2:], maxsplit=1)[0].partition("/")
    host = host.rpartition("@")[2]
    # A password with a slash in it looks like a port that is no number.
    return f"{scheme}://{host}{slash}{path}" if _HOST.fullmatch(host) else f"{scheme}://…"


def _without_user(rest: str) -> str:
    """`//user@host/path` as `//host/path`."""
    return re.sub(r"^(//)?[^/]*@", r"\1", rest)
