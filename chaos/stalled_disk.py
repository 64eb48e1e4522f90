"""A disk that hangs under an append-only file with `everysec`: Redis's own fsync thread, held.

With `everysec` Redis writes its log once the fsync before has ended, and acknowledges meanwhile,
for up to two seconds. A process that is killed then loses what only its memory knew, as a machine
that loses power does. On an idle disk SIGKILL alone loses nothing: the kernel has the writes.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

__all__ = ["hold_the_log"]

_SEIZE, _INTERRUPT = 0x4206, 0x4207  # <linux/ptrace.h>
_WALL = 0x40000000  # <linux/wait.h>: children that are threads, too
_FSYNC_THREAD = "bio_aof_fsync"  # as Redis names it, within the 15 characters that Linux keeps


def hold_the_log(pid: int) -> None:
    """Stop the thread that syncs the log of this redis-server; only its end releases it.

    Raises `OSError` where the kernel does not let us trace it (yama, or a container's seccomp).
    """
    failures: list[OSError] = []
    held = threading.Event()
    # Whoever traces must live on and reap the thread, or Redis could not end for good.
    arguments = (_thread(pid), held, failures)
    threading.Thread(target=_trace, args=arguments, name="stalled-disk", daemon=True).start()
    held.wait()
    if failures:
        raise failures[0]


def _trace(thread: int, held: threading.Event, failures: list[OSError]) -> None:
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        for request in (_SEIZE, _INTERRUPT):
            if libc.ptrace(request, thread, None, None) == -1:
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        os.waitpid(thread, _WALL)  # until it stands still
    except OSError as error:
        failures.append(error)
        return
    finally:
        held.set()
    while os.WIFSTOPPED(os.waitpid(thread, _WALL)[1]):
        pass


def _thread(pid: int) -> int:
    for task in Path(f"/proc/{pid}/task").iterdir():
        if (task / "comm").read_text().strip() == _FSYNC_THREAD:
            return int(task.name)
    raise OSError(f"the redis-server {pid} has no thread {_FSYNC_THREAD}")
