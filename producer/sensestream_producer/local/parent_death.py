"""Children that end with their starter, even when the starter is killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

__all__ = ["Lifeline"]

# Reads one line from the process that started it. The line is a release; the end of the pipe means
# that the starter is dead, by any signal, and the child is killed.
# (PR_SET_PDEATHSIG would not do: it follows the starting thread, and exists on Linux only.)
_WATCHDOG = (
    'trap "" INT HUP TERM; read line || { kill -9 "$1"; if [ -n "$2" ]; then rm -rf "$2"; fi; }'
)


class Lifeline:
    """Kills the process `pid` and removes `directory` when this process dies before `release`."""

    def __init__(self, pid: int, directory: Path | None = None) -> None:
        self._watchdog = subprocess.Popen(  # noqa: S603 - our own script, no foreign input
            ["/bin/sh", "-c", _WATCHDOG, "watchdog", str(pid), str(directory or "")],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C at the terminal is not for it
        )

    def release(self) -> None:
        """Stop watching: the child has ended, or may live on."""
        self._watchdog.communicate(b"released\n")
