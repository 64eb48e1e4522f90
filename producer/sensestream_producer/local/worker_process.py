"""A `sensestream-worker` as a child process, for the demo."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from sensestream_common.contract.errors import SensestreamError

from sensestream_producer.local.parent_death import Lifeline

__all__ = ["WorkerMissing", "WorkerProcess", "find_worker"]

_STOP_TIMEOUT = 15.0  # seconds; enough, as the demo leaves no requests to drain
_COMMAND = "sensestream-worker"


class WorkerMissing(SensestreamError):
    """No worker was found; the message says what to install."""


class WorkerProcess:
    """A worker that lives as long as its `with` block, its log kept in the file `log`."""

    def __init__(self, arguments: Sequence[str], log: Path, *, command: str | None = None) -> None:
        self._arguments = [command or find_worker(), *arguments]
        self._log = log

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                self._arguments,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C goes to the starter, which ends the worker
            )
        self._lifeline = Lifeline(self._process.pid)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._lifeline.release()

    def check(self) -> None:
        """Raise `SensestreamError` with the last lines of its log if it has ended."""
        if (status := self._process.poll()) is not None:
            raise SensestreamError(
                f"the worker ended with status {status}; the end of its log:\n{self.log_tail()}"
            )

    def log_tail(self, lines: int = 12) -> str:
        """The last lines that the worker logged."""
        with contextlib.suppress(OSError):
            return "\n".join(self._log.read_text("utf-8", "replace").splitlines()[-lines:])
        return ""


def find_worker() -> str:
    """The command beside the running interpreter, else the one on PATH; or `WorkerMissing`."""
    beside = Path(sys.executable).parent / _COMMAND
    if beside.exists():
        return str(beside)
    if on_path := shutil.which(_COMMAND):
        return on_path
    raise WorkerMissing(
        f"there is no {_COMMAND}: install the consumer beside this package, from a checkout with "
        "pip install -e ./common -e ./producer -e './consumer[cpu]'"
    )
