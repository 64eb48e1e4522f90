"""`sensestream status`: the state of one request, or of the whole pipeline."""

from __future__ import annotations

import asyncio
import sys

import click
from rich.console import Console
from rich.live import Live
from rich.table import Table
from sensestream_common.contract.errors import SensestreamError

from sensestream_producer.cli.setup import Setup, echo_json, run, shown
from sensestream_producer.client import Client
from sensestream_producer.operations.status import PipelineStatus, RequestStatus

__all__ = ["status"]

_EVERY = 1.0  # seconds between two lines of --watch


@click.command(short_help="Show the state of a request, or of the pipeline.")
@click.argument("request_id", metavar="[ID]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@click.option("--watch", is_flag=True, help="Repeat every second, until Ctrl-C.")
@click.pass_obj
def status(setup: Setup, request_id: str | None, as_json: bool, watch: bool) -> None:
    """Show the state of a request, or of the pipeline: backlog, workers, counters.

    \b
    sensestream status
    sensestream status --watch
    sensestream status 01a2097586c66ee53430bd1e5479c74b --json
    """
    run(_watch(setup, request_id, as_json) if watch else _once(setup, request_id, as_json))


async def _once(setup: Setup, request_id: str | None, as_json: bool) -> None:
    async with setup.client() as client:
        found = await _fetch(client, request_id)
    if as_json:
        echo_json(found.to_json())
    else:
        Console(soft_wrap=not sys.stdout.isatty()).print(_table(found))


async def _watch(setup: Setup, request_id: str | None, as_json: bool) -> None:
    console = Console()
    async with setup.client() as client:
        found = await _fetch(client, request_id)
        if as_json or not console.is_terminal:
            while True:
                echo_json(found.to_json())
                sys.stdout.flush()
                await asyncio.sleep(_EVERY)
                found = await _fetch(client, request_id)
        with Live(_table(found), console=console, auto_refresh=False) as live:
            while True:
                await asyncio.sleep(_EVERY)
                live.update(_table(await _fetch(client, request_id)), refresh=True)


async def _fetch(client: Client, request_id: str | None) -> RequestStatus | PipelineStatus:
    if request_id is None:
        return await client.pipeline_status()
    found = await client.status(request_id)
    if found is None:
        raise SensestreamError(
            f"no request with the id {request_id!r} is known: it was never submitted through a "
            "client, or was answered so long ago that it is forgotten"
        )
    return found


def _table(found: RequestStatus | PipelineStatus) -> Table:
    table = Table.grid(padding=(0, 2))
    rows = _request(found) if isinstance(found, RequestStatus) else _pipeline(found)
    for name, value in rows:
        table.add_row(name, shown(str(value)))
    return table


def _request(found: RequestStatus) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("id", found.id),
        ("state", found.state),
        ("entry", found.entry),
        ("lane", found.lane.value),
    ]
    if found.status:
        rows.append(("status", found.status.value))
    if outcome := found.outcome:
        rows += [("text", outcome.text)] if outcome.completed else []
        rows += [] if outcome.completed else [(str(outcome.error), outcome.message)]
        rows += [("warning", warning.message) for warning in outcome.warnings]
    return rows


def _pipeline(found: PipelineStatus) -> list[tuple[str, object]]:
    oldest = "" if found.oldest_ms is None else f", the oldest for {found.oldest_ms / 1000:.1f} s"
    rows: list[tuple[str, object]] = [
        ("waiting", f"{found.backlog} and {found.backlog_high} with high priority{oldest}"),
        ("with workers", found.pending),
        ("outcomes kept", found.transcripts),
        ("dead letters", found.dead),
        ("workers", len(found.workers)),
    ]
    for worker in found.workers:
        what = f"{worker.model} on {worker.device}, {worker.in_flight} in flight"
        rows.append((f"  {worker.consumer}", what))
    return rows + [(name, count) for name, count in found.counters.items()]
