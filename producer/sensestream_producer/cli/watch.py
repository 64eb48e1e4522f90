"""`sensestream watch`: prints every outcome as it comes, resumable."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

import click
from sensestream_common.contract.outcome import Outcome

from sensestream_producer.cli.setup import Setup, echo_json, note, run, shown
from sensestream_producer.client import Client
from sensestream_producer.outcomes.follower import Gap, GapReason

__all__ = ["watch"]

_GAPS = {
    GapReason.TRIMMED: "outcomes after {} and up to {} are no longer kept and were missed",
    GapReason.REWOUND: (
        "Redis has lost its latest outcomes, after {} and up to {}; going on a minute before, "
        "so that some may come twice: tell them by their entry"
    ),
}


@click.command(short_help="Print every outcome as it comes.")
@click.option(
    "--from",
    "start",
    metavar="POSITION",
    help="Position to start behind: 0 (all that are kept), $ (from now on) or an earlier one [$].",
)
@click.option(
    "--position-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to resume from and to keep the position in.",
)
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object a line, with its position."
)
@click.option("--live", is_flag=True, help="Listen on the channel instead: live, and at most once.")
@click.option("--count", type=click.IntRange(min=1), help="Number of outcomes to end after.")
@click.pass_obj
def watch(
    setup: Setup,
    start: str | None,
    position_file: Path | None,
    as_json: bool,
    live: bool,
    count: int | None,
) -> None:
    """Print every outcome of the pipeline as it comes, until Ctrl-C.

    Reads the stream of outcomes: nothing is lost across reconnects and restarts, and gaps are
    reported.

    \b
    sensestream watch
    sensestream watch --from 0 --json | jq -r .text
    sensestream watch --from 0 --count 3
    sensestream watch --position-file seen.txt --json >> outcomes.jsonl
    """
    if live and (start or position_file):
        raise click.UsageError("--live has no positions: leave out --from and --position-file")
    if live:
        run(_listen(setup, as_json, count))
    else:
        run(_follow(setup, start, position_file, as_json, count))


async def _listen(setup: Setup, as_json: bool, count: int | None) -> None:
    printed = 0
    async with setup.client() as client, contextlib.aclosing(client.listen()) as outcomes:
        async for outcome in outcomes:
            _print(outcome, as_json)
            printed += 1
            if printed == count:
                return


async def _follow(
    setup: Setup, start: str | None, kept: Path | None, as_json: bool, count: int | None
) -> None:
    printed = 0
    position = start or _read(kept) or "$"
    async with setup.client() as client:
        if kept and position == "$":
            # So that a second start goes on here, even when no outcome came in between.
            position = await _now(client, kept)
        async with contextlib.aclosing(client.follow(position)) as events:
            async for event in events:
                if isinstance(event, Gap):
                    reason = _GAPS[event.reason].format(event.lost_after, event.lost_until)
                    note(f"sensestream: gap: {reason}")
                else:
                    _print(event.outcome, as_json, event.position)
                    printed += 1
                if kept:
                    _write(kept, event.position)
                if printed == count:
                    return


async def _now(client: Client, kept: Path) -> str:
    position = await client.position()
    _write(kept, position)
    return position


def _print(outcome: Outcome, as_json: bool, position: str = "") -> None:
    if as_json:
        echo_json({**({"position": position} if position else {}), **outcome.to_json()})
    elif outcome.completed:
        use = outcome.cache.value if outcome.cache else ""
        click.echo(f"{shown(outcome.id)}\t{outcome.language}\t{use}\t{shown(outcome.text)}")
        for warning in outcome.warnings:
            note(f"sensestream: {shown(outcome.id)}: warning: {shown(warning.message)}")
    else:
        click.echo(f"{shown(outcome.id)}\t{outcome.error}\tfailed\t{shown(outcome.message)}")
    sys.stdout.flush()


def _read(path: Path | None) -> str:
    with contextlib.suppress(FileNotFoundError):
        return path.read_text("utf-8").strip() if path else ""
    return ""


def _write(path: Path, position: str) -> None:
    """Replace the file in one step: after a crash it holds the old position or the new one."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(position + "\n")
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
