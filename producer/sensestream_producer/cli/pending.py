"""`sensestream pending`: requests that workers hold, listed and released to others."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.table import Table

from sensestream_producer.cli.setup import Setup, age, echo_json, note, run, shown
from sensestream_producer.operations.pending import (
    HolderState,
    PendingFilter,
    PendingRequest,
    Release,
)

__all__ = ["pending"]

F = TypeVar("F", bound=Callable[..., Any])

_COLUMNS = ("entry", "id", "lane", "held by", "", "idle", "attempts", "audio")


def _selecting(command: F) -> F:
    """The conditions that choose requests; a request must meet all that are given."""
    for option in (
        click.option(
            "--idle", type=age, metavar="AGE", help="Select requests not renewed for AGE, as 30s."
        ),
        click.option(
            "--consumer",
            "consumers",
            multiple=True,
            metavar="NAME",
            help="Select requests that this worker holds; repeatable.",
        ),
        click.argument("ids", nargs=-1, metavar="[ID]…"),
    ):
        command = option(command)
    return command


def _which(
    ids: tuple[str, ...], consumers: tuple[str, ...], idle: timedelta | None
) -> PendingFilter:
    return PendingFilter(ids=frozenset(ids), consumers=frozenset(consumers), idle=idle)


@click.group(short_help="List requests that workers hold, and release them.")
def pending() -> None:
    """Pending requests: read by a worker and not answered yet.

    \b
    sensestream pending list --idle 30s
    sensestream pending replay --consumer gpu-1-0a1b2c3d
    sensestream pending replay call-7 --force
    """


@pending.command("list")
@_selecting
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.pass_obj
def list_pending(setup: Setup, /, as_json: bool, **conditions: Any) -> None:
    """Print pending requests by id (their own or the entry's), worker and idle time, or all.

    An `alive` worker renews the requests that it holds. Other workers take over those of a
    `silent` one after SENSESTREAM_RECLAIM_AFTER. Those that `nobody` holds were handed back and
    wait for a worker with a free slot.
    """

    async def work() -> None:
        async with setup.pending() as requests:
            found = [request async for request in requests.select(_which(**conditions))]
        if as_json:
            for request in found:
                echo_json(request.to_json())
        else:
            Console(soft_wrap=not sys.stdout.isatty()).print(_table(found))

    run(work())


@pending.command()
@_selecting
@click.option("--all", "every", is_flag=True, help="Take every pending request.")
@click.option("--force", is_flag=True, help="Take requests from living workers too.")
@click.option("--dry-run", is_flag=True, help="Print the requests to take, and change nothing.")
@click.pass_obj
def replay(setup: Setup, /, every: bool, force: bool, dry_run: bool, **conditions: Any) -> None:
    """Take requests from the workers that hold them, for the next worker with a free slot.

    Requests of a living worker need --force, because it may be transcribing them. With --force
    the work may be done twice; the first outcome counts, and there is no second one.
    """
    if every == any(conditions.values()):
        raise click.UsageError("choose requests by id, --consumer or --idle, or say --all")

    async def work() -> bool:
        taken = refused = 0
        async with setup.pending() as requests:
            async for request in requests.select(_which(**conditions)):
                if dry_run:
                    click.echo(f"{_foreseen(request, force)} {request.id}\t{request.consumer}")
                    continue
                released = await requests.release(request, force=force)
                taken += released.result is Release.RELEASED
                refused += released.result is Release.ALIVE
                told = click.echo if released.result is Release.RELEASED else note
                told(shown(released.sentence))
        if not dry_run:
            note(f"{taken} taken" + (f", {refused} not" if refused else ""))
        return refused == 0

    if not run(work()):
        sys.exit(1)


def _foreseen(request: PendingRequest, force: bool) -> str:
    if request.holder is HolderState.NOBODY:
        return "would leave"
    return "would refuse" if request.holder is HolderState.ALIVE and not force else "would take"


def _table(found: list[PendingRequest]) -> Table:
    table = Table(*_COLUMNS, box=None, pad_edge=False, header_style="bold")
    for each in found:
        cells = (
            each.entry,
            each.id if each.id != each.entry else "",
            each.lane.value,
            each.consumer,
            each.holder.value,
            "" if each.idle is None else f"{each.idle.total_seconds():.1f} s",
            str(each.attempts),
            each.audio,
        )
        table.add_row(*map(shown, cells))
    return table
