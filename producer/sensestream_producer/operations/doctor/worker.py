"""This machine's worker: `sensestream-worker --check`, run as a process where it is installed.

This package never imports the consumer, which knows model, device, runtimes and audio roots. The
check prints one finding a line, as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace

from sensestream_common.findings import Finding, Level, fault, fine
from sensestream_common.settings import ENVIRONMENT_PREFIX

from sensestream_producer.local.worker_process import WorkerMissing, find_worker
from sensestream_producer.settings import ProducerSettings

__all__ = ["worker_findings"]

_TIMEOUT = 300.0  # seconds; a model that is loaded for the first time may be converted


async def worker_findings(settings: ProducerSettings, *, command: str = "") -> list[Finding]:
    """The findings of a worker with this environment; `command` is the worker's, if not found."""
    try:
        command = command or find_worker()
    except WorkerMissing as missing:
        observed = "no worker is installed here: model, device and audio roots were not checked"
        return [fine("worker", observed, f"Run doctor where workers run, or: {missing}.")]
    status, output, errors = await _run(command, settings)
    try:
        found = [Finding.from_json(json.loads(line)) for line in output.splitlines()]
    except (ValueError, KeyError, TypeError):
        found = []
    if status not in (0, 1) or not found:
        last = errors.strip().splitlines()[-1:] or ["it printed nothing"]
        return [
            fault(
                "worker",
                f"{command} --check ended with status {status}: {last[0]}",
                "Run it by hand to see its whole output.",
            )
        ]
    return [_for_this_shell(finding) for finding in found]


async def _run(command: str, settings: ProducerSettings) -> tuple[int | str, str, str]:
    # Through the environment: arguments, and a password among them, are shown by ps.
    environment = os.environ | {
        f"{ENVIRONMENT_PREFIX}REDIS_URL": settings.redis_url,
        f"{ENVIRONMENT_PREFIX}PIPELINE": settings.pipeline,
    }
    process = await asyncio.create_subprocess_exec(
        command,
        *("--check", "--log-level", "error"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=environment,
    )
    try:
        async with asyncio.timeout(_TIMEOUT):
            output, errors = await process.communicate()
    except TimeoutError:
        return f"unknown after {_TIMEOUT:.0f} s", "", ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    status = process.returncode if process.returncode is not None else "unknown"
    return status, output.decode("utf-8", "replace"), errors.decode("utf-8", "replace")


def _for_this_shell(finding: Finding) -> Finding:
    """A missing model is a fault in a worker's environment, and only a warning in a shell's."""
    if finding.check == "model" and not os.environ.get(f"{ENVIRONMENT_PREFIX}MODEL"):
        fix = "Run doctor with a worker's environment to have its model checked."
        return replace(finding, level=Level.WARNING, fix=fix)
    return finding
