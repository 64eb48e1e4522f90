"""`sensestream-worker`: read the settings, load the model, run one worker until it is stopped."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NoReturn

import click
import structlog
from redis.exceptions import RedisError
from sensestream_common import __version__
from sensestream_common.connections.connection import connect
from sensestream_common.contract.errors import SensestreamError, SettingsError
from sensestream_common.contract.keys import REQUESTS_GROUP
from sensestream_common.findings import Level, fault, worst
from sensestream_common.flags import settings_flags
from sensestream_common.logs import LEVELS, configure_logs
from sensestream_common.settings import load_settings

from sensestream_consumer.settings import WorkerSettings
from sensestream_consumer.telemetry.span_export import start_exporting, stop_exporting

if TYPE_CHECKING:
    from sensestream_consumer.engine import Recogniser
    from sensestream_consumer.monitoring.readiness import Readiness
    from sensestream_consumer.worker import Worker

__all__ = ["main", "run_until_stopped"]

log = structlog.get_logger(__name__)

_HELP = """Run a worker of a Sensestream pipeline.

It reads requests from a Redis stream as one of a consumer group, answers repeated recordings from
the cache, transcribes the others with SenseVoice and publishes every outcome. Run as many as you
like, on as many machines: each request is answered exactly once.

\b
  sensestream-worker --model demo
  sensestream-worker --model /models/SenseVoiceSmall --audio-roots /data/audio
  SENSESTREAM_REDIS_URL=redis://10.0.0.5:6379/0 SENSESTREAM_MODEL=demo sensestream-worker

SIGTERM or Ctrl-C drains: started requests are finished within the drain time, the others go to
the other workers at once. A second signal hands everything back.
"""


@click.command(help=_HELP, context_settings={"max_content_width": 100})
@settings_flags(WorkerSettings)
@click.option(
    "--check",
    is_flag=True,
    help="Check what a start would meet (Redis, model, device, runtimes, audio roots), "
    "print each finding as a line of JSON, and exit 1 on a fault. It loads the model, "
    "and joins no group.",
)
@click.option("--health", is_flag=True, help="Exit 0 if a worker of this host is alive, else 1.")
@click.option(
    "--log-level",
    type=click.Choice(LEVELS),
    default="info",
    envvar="SENSESTREAM_LOG_LEVEL",
    show_default=True,
    show_envvar=True,
    help="How much is logged, to standard error.",
)
@click.version_option(__version__, prog_name="sensestream-worker")
def main(check: bool, health: bool, log_level: str, **flags: Any) -> None:
    """Run a worker, or check what one would meet, or whether one is alive."""
    configure_logs(log_level)
    if check:
        sys.exit(_check(flags))
    try:
        settings = load_settings(WorkerSettings, **flags)
        if health:
            sys.exit(asyncio.run(_healthy(settings)))
        _work(settings)
    except SensestreamError as error:
        usage = isinstance(error, SettingsError)
        click.echo(f"sensestream-worker: {error}", err=True)
        sys.exit(2 if usage else 1)


def _check(flags: dict[str, Any]) -> int:
    """Print what a start would meet; 1 if it would be refused, or be of no use."""
    try:
        settings = load_settings(WorkerSettings, **flags)
        from sensestream_consumer.startup.check_command import check

        findings = asyncio.run(check(settings))
    except SettingsError as error:
        fix = "Fix the setting: sensestream-worker --help says what each takes."
        findings = [fault("settings", line, fix) for line in str(error).splitlines()]
    for finding in findings:
        click.echo(json.dumps(finding.to_json(), ensure_ascii=False))
    return int(worst(findings) is Level.FAULT)


def _work(settings: WorkerSettings) -> NoReturn:
    # Imported here, so that --help and a wrong setting answer at once.
    from sensestream_consumer.startup.model import load_recogniser
    from sensestream_consumer.startup.preflight import check_host

    def load() -> Recogniser:
        check_host(settings)
        return load_recogniser(settings)

    run_until_stopped(settings, load)


def run_until_stopped(settings: WorkerSettings, load: Callable[[], Recogniser]) -> NoReturn:
    """Run one worker until a signal stops it; end the process, with status 0.

    The model is loaded in a thread, while /health and /metrics already answer.
    Not through asyncio.run, nor through the interpreter's own exit: both wait for threads, and one
    that computes for a request that was handed back cannot be stopped.
    """
    loop = asyncio.new_event_loop()
    try:
        start_exporting()
        loop.run_until_complete(_run(settings, load))
    except SettingsError as error:
        _end(2, str(error))
    except SensestreamError as error:
        _end(1, str(error))
    except RedisError as error:
        _end(1, f"Redis refused a command that a worker needs: {error}")
    stop_exporting()
    _end(0)


def _end(status: int, message: str = "") -> NoReturn:
    if message:
        click.echo(f"sensestream-worker: {message}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


async def _run(settings: WorkerSettings, load: Callable[[], Recogniser]) -> None:
    from sensestream_consumer.monitoring.readiness import Readiness
    from sensestream_consumer.worker import Worker

    readiness = Readiness()
    async with _monitored(settings, readiness):
        worker = Worker(settings, load, readiness)
        _stop_on_signals(worker)
        await worker.run()


def _monitored(settings: WorkerSettings, readiness: Readiness) -> AbstractAsyncContextManager[None]:
    """The HTTP server of the metrics, where a port is set for it."""
    if not settings.metrics_port:
        return nullcontext()
    from sensestream_consumer.monitoring.server import serve

    return serve(settings.metrics_host, settings.metrics_port, readiness)


def _stop_on_signals(worker: Worker) -> None:
    signals: list[int] = []

    def on_signal(number: int) -> None:
        signals.append(number)
        log.info("stopping", signal=signal.Signals(number).name, now=len(signals) > 1)
        if len(signals) > 2:  # two were not enough: something holds it up
            _end(128 + number)
        worker.stop(now=len(signals) > 1)

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)


async def _healthy(settings: WorkerSettings) -> int:
    """0 if a consumer of this host has a living key, 1 with a sentence otherwise."""
    import socket

    redis = connect(settings.redis_url, name="sensestream-worker:health", connections=1)
    keys = settings.keys
    try:
        for stream in (keys.requests, keys.requests_high):
            for consumer in await redis.xinfo_consumers(stream, REQUESTS_GROUP):
                name = consumer["name"].decode()
                if name.startswith(socket.gethostname() + "-") and await redis.exists(
                    keys.worker(name)
                ):
                    return 0
    except (RedisError, OSError) as error:
        click.echo(f"sensestream-worker: Redis does not answer: {error}", err=True)
        return 1
    finally:
        await redis.aclose()
    click.echo("sensestream-worker: no worker of this host is alive", err=True)
    return 1
