"""Open `file://` below the worker's roots: checked on the open file, never on its name alone.

A name can be swapped for a link between a check and the opening. So the file is first opened with
`O_PATH`, which neither reads nor disturbs it (a pipe does not block, a device does not act). Its
kind and its true path are checked on that handle, and it is opened for reading through the same
handle. Hard links cannot be told apart from their files.
"""

from __future__ import annotations

import errno
import os
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError

from sensestream_consumer.audio.decoding.threads import copy_in_thread
from sensestream_consumer.audio.policy import AudioPolicy, too_large
from sensestream_consumer.audio.spool import CHUNK, Fetched, Spool

if TYPE_CHECKING:
    from sensestream_consumer.audio.sources.reference import Reference

__all__ = ["open_file"]

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_HOLD = getattr(os, "O_PATH", 0)  # Linux; elsewhere the file itself is opened, without blocking
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}


async def open_file(reference: Reference, policy: AudioPolicy) -> Fetched:
    """Copy a regular file below one of `policy.roots`.

    Raises `RequestError`: `audio_forbidden` outside of the roots, for anything but a regular file
    and for missing permission, `audio_not_found` only for a name below a root. Raises
    `TransientError` when reading takes too long.
    """
    path = _path_of(reference)
    try:
        return await copy_in_thread(
            lambda stop: _copy(reference.display, path, policy, stop), policy.fetch_timeout
        )
    except TimeoutError as error:
        message = f"{reference} could not be read within {policy.fetch_timeout:g} seconds"
        raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message) from error


def _path_of(reference: Reference) -> str:
    """The absolute path; `?` and `#` belong to the name, since a file has no query."""
    rest = reference.rest
    if rest.startswith("//"):
        host, slash, tail = rest[2:].partition("/")
        if host.lower() not in {"", "localhost"}:
            message = (
                f"{reference} names another host, and a worker reads its own disk only; "
                "write file:///path, with three slashes, or give an http:// address"
            )
            raise RequestError(ErrorCode.BAD_REQUEST, message)
        rest = slash + tail
    path = os.fsdecode(unquote_to_bytes(rest))
    if not path.startswith("/") or "\0" in path:
        message = f"{reference} is not an absolute path; write file:///folder/name.wav"
        raise RequestError(ErrorCode.BAD_REQUEST, message)
    return path


def _copy(display: str, path: str, policy: AudioPolicy, stop: threading.Event) -> Fetched:
    descriptor = _open_below(display, path, policy)
    with os.fdopen(descriptor, "rb", buffering=0) as source, Spool(display, policy.max_bytes) as to:
        if os.fstat(descriptor).st_size > policy.max_bytes:
            raise too_large(display, policy.max_bytes)
        try:
            while not stop.is_set() and (data := source.read(CHUNK)):
                to.write(data)
        except OSError as error:
            message = f"{display} could not be read: {error.strerror}"
            raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message) from error
        return to.finish()


def _open_below(display: str, path: str, policy: AudioPolicy) -> int:
    roots = [(os.path.abspath(root), os.path.realpath(root)) for root in policy.roots]  # noqa: PTH100
    # Outside the roots by its very name: the disk is not even touched, so that nothing about
    # what lies there (does it exist? is it a folder?) can be told from the answer.
    inside = any(_is_below(os.path.normpath(path), root) for pair in roots for root in pair)
    if not inside or ".." in path.split("/"):
        raise _outside(display, policy)
    true_roots = [true for _, true in roots]
    try:
        handle = os.open(path, _HOLD | os.O_CLOEXEC if _HOLD else _READ)
    except OSError as error:
        # A link out of the roots is answered alike whether or not it leads to something.
        if not any(_is_below(os.path.realpath(path), root) for root in true_roots):
            raise _outside(display, policy) from None
        raise _refused(display, error) from error
    try:
        true_path = _true_path(handle, path)
        if true_path is None or not any(_is_below(true_path, root) for root in true_roots):
            raise _outside(display, policy)
        _require_regular(display, os.fstat(handle).st_mode)
        return _open_for_reading(display, handle, true_path)
    finally:
        os.close(handle)


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _true_path(handle: int, path: str) -> str | None:
    """Return where the open file truly is; None where that cannot be known for sure."""
    with suppress(OSError):
        return os.readlink(f"/proc/self/fd/{handle}")  # noqa: PTH115 - the link as it is, unresolved
    true_path = os.path.realpath(path)
    with suppress(OSError):
        if os.path.samestat(os.fstat(handle), os.stat(true_path, follow_symlinks=False)):  # noqa: PTH116
            return true_path
    return None


def _require_regular(display: str, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = [(stat.S_ISDIR, "folder"), (stat.S_ISFIFO, "pipe"), (stat.S_ISSOCK, "socket")]
    kind = next((name for test, name in kinds if test(mode)), "device")
    message = f"{display} is a {kind}; only regular files are read"
    raise RequestError(ErrorCode.AUDIO_FORBIDDEN, message)


def _open_for_reading(display: str, handle: int, true_path: str) -> int:
    if not _HOLD:
        return os.dup(handle)
    with suppress(OSError):
        return os.open(f"/proc/self/fd/{handle}", _READ)
    # No permission, or no /proc: a process that gave up its rights may not look there.
    try:
        descriptor = os.open(true_path, _READ | os.O_NOFOLLOW)
    except OSError as error:
        raise _refused(display, error) from error
    if os.path.samestat(os.fstat(descriptor), os.fstat(handle)):
        return descriptor
    os.close(descriptor)
    message = f"{display} was replaced while it was opened"
    raise TransientError(ErrorCode.AUDIO_UNAVAILABLE, message)


def _refused(display: str, error: OSError) -> RequestError:
    if error.errno in _GONE:
        message = f"{display} does not exist on this worker; check the name, or upload the file"
        return RequestError(ErrorCode.AUDIO_NOT_FOUND, message)
    if error.errno in {errno.EACCES, errno.EPERM}:
        message = f"{display} may not be read by the worker's user; give it permission to"
        return RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
    message = f"{display} could not be opened: {error.strerror}"
    return TransientError(ErrorCode.AUDIO_UNAVAILABLE, message)


def _outside(display: str, policy: AudioPolicy) -> RequestError:
    roots = os.pathsep.join(str(root) for root in policy.roots) or "empty"
    message = (
        f"{display} is outside the folders that this worker may read (SENSESTREAM_AUDIO_ROOTS is "
        f"{roots}); an upload needs none: `sensestream submit FILE` uploads"
    )
    return RequestError(ErrorCode.AUDIO_FORBIDDEN, message)
