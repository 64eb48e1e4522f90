"""Many recordings from the command line: their names, and submitting them together."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.redaction import redacted

from sensestream_producer.cli.setup import shown

__all__ = ["STDIN", "audio_of", "handled", "named", "progress_bar", "refuse_folders"]

STDIN = "-"
_AT_ONCE = 64  # recordings under way; more would only wait in the workers' backlog

J = TypeVar("J")
R = TypeVar("R")


def audio_of(source: str, limit: int, *, by_reference: bool) -> str | Path | bytes:
    """The audio to submit for an argument: a URL as it is, a file to upload, or its file:// URL."""
    if source == STDIN:
        # One byte above the limit shows that it is exceeded; an endless pipe fills no memory.
        return sys.stdin.buffer.read(limit + 1)
    if _is_reference(source):
        return source
    path = Path(source)
    return path.absolute().as_uri() if by_reference else path


def _is_reference(source: str) -> bool:
    """Whether an argument is a URL that workers open, not a local file."""
    return "://" in source or source.startswith(("data:", "redis:"))


def named(source: str) -> str:
    """An argument as it may be printed: a URL without passwords and signatures."""
    return shown(redacted(source) if _is_reference(source) else source)


def refuse_folders(sources: Sequence[str]) -> None:
    """Raise a usage error that names the first source that is a folder."""
    for source in sources:
        if source != STDIN and "://" not in source and Path(source).is_dir():
            raise click.UsageError(f"{source!r} is a directory: name its files, as in {source}/*")


async def handled(
    jobs: Sequence[J], handle: Callable[[J], Awaitable[R]], *, as_completed: bool = False
) -> AsyncGenerator[tuple[J, R | SensestreamError]]:
    """Handle jobs concurrently, and yield each with its result or error.

    In the order given, so that output lines up with input, or `as_completed`.
    """
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(job: J) -> tuple[J, R | SensestreamError]:
        async with slots:
            try:
                return job, await handle(job)
            except SensestreamError as error:
                return job, error

    pending = [asyncio.create_task(one(job)) for job in jobs]
    try:
        for finished in asyncio.as_completed(pending) if as_completed else pending:
            yield await finished
    finally:
        for left in pending:
            left.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


@contextmanager
def progress_bar(what: str, jobs: int) -> Iterator[Callable[[], None]]:
    """A bar on stderr at a terminal, for more than one job; yields a function that advances it."""
    console = Console(stderr=True)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=jobs < 2 or not console.is_terminal,
        # Transcripts go past the bar on standard output of their own accord.
        redirect_stdout=sys.stdout.isatty(),
        redirect_stderr=True,
    ) as progress:
        task = progress.add_task(what, total=jobs)
        yield lambda: progress.advance(task)
