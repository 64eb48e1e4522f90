"""Shared by all commands: the settings, the client, and printing."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any, TypeVar

import click
from sensestream_common.contract.keys import Keys
from sensestream_common.settings import PipelineSettings, load_settings

from sensestream_producer.client import Client
from sensestream_producer.operations.pending import Pending
from sensestream_producer.operations.result_cache import Results
from sensestream_producer.settings import ProducerSettings
from sensestream_producer.transport import RedisTransport

__all__ = ["Setup", "age", "echo_json", "note", "run", "shown"]

_RETRY_TIMEOUT = 3.0  # seconds; a person at a terminal prefers an error to a long wait

S = TypeVar("S", bound=PipelineSettings)
T = TypeVar("T")


class Setup:
    """The settings: flags of the command line first, then the environment."""

    def __init__(self, flags: dict[str, Any]) -> None:
        self._flags = flags

    def settings(self, **more: Any) -> ProducerSettings:
        """The settings of a client; `more` are further flags."""
        return self.settings_of(ProducerSettings, **more)

    def settings_of(self, kind: type[S], **more: Any) -> S:
        """The settings of another `kind`; `more` are further flags."""
        return load_settings(kind, **self._flags, **more)

    def client(self, **more: Any) -> Client:
        """A client with the settings; `more` are further flags."""
        return Client.from_settings(self.settings(**more), retry_timeout=_RETRY_TIMEOUT)

    @asynccontextmanager
    async def results(self) -> AsyncIterator[Results]:
        """The result cache of the pipeline."""
        async with self._connected() as (link, keys):
            yield Results(link, keys)

    @asynccontextmanager
    async def pending(self) -> AsyncIterator[Pending]:
        """The pending requests of the pipeline."""
        async with self._connected() as (link, keys):
            yield Pending(link, keys)

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[tuple[RedisTransport, Keys]]:
        settings = self.settings()
        link = RedisTransport(settings.redis_url, retry_timeout=_RETRY_TIMEOUT)
        try:
            yield link, settings.keys
        finally:
            await link.close()


_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def age(text: str) -> timedelta:
    """Parse a time span: 90, 90s, 15m, 12h, 7d."""
    match = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no time span: write 90s, 15m, 12h or 7d")
    return timedelta(seconds=int(match[1]) * _UNITS[match[2]])


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C and SIGTERM cancel it, so that it cleans up.

    The process then ends with 128 and the signal's number, as shells count.
    """
    received: list[int] = []

    async def cancellable() -> T:
        task = asyncio.create_task(work, name="sensestream-command")
        loop = asyncio.get_running_loop()

        def stop(signum: int) -> None:
            received.append(signum)
            task.cancel()

        # Through the loop: Python's own handler interrupts in the middle of anything.
        for signum in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(signum, stop, signum)
        return await task

    try:
        return asyncio.run(cancellable())
    except asyncio.CancelledError:
        if received:
            sys.exit(128 + received[0])
        raise


def echo_json(value: Any) -> None:
    """Print one JSON object on one line of standard output."""
    click.echo(json.dumps(value, ensure_ascii=False, separators=(",", ":")))


def note(sentence: str) -> None:
    """Print a sentence on stderr; standard output carries results only."""
    click.echo(sentence, err=True)


def shown(text: str) -> str:
    """Foreign text on one line, without control characters."""
    return "".join(char if char.isprintable() else " " for char in text)
