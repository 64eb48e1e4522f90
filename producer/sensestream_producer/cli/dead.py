"""`sensestream dead`: dead letters listed, shown, replayed and purged."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import click
from sensestream_common.contract.errors import ErrorCode, SensestreamError
from sensestream_common.redaction import redacted

from sensestream_producer.cli.setup import Setup, age, echo_json, note, run, shown
from sensestream_producer.operations.dead_letters import DeadLetter, DeadLetterFilter, Replay

__all__ = ["dead"]

F = TypeVar("F", bound=Callable[..., Any])


def _selecting(command: F) -> F:
    """The conditions that choose letters; a letter must meet all that are given."""
    codes = [code.value for code in ErrorCode if code.dead_letter]
    for option in (
        click.option(
            "--newer-than", type=age, metavar="AGE", help="Select letters younger than AGE, as 12h."
        ),
        click.option(
            "--older-than", type=age, metavar="AGE", help="Select letters older than AGE, as 7d."
        ),
        click.option(
            "--error",
            "errors",
            multiple=True,
            type=click.Choice(codes),
            metavar="CODE",
            help="Select letters with this error; repeatable.",
        ),
        click.argument("ids", nargs=-1, metavar="[ID]…"),
    ):
        command = option(command)
    return command


def _selection(
    ids: tuple[str, ...],
    errors: tuple[str, ...],
    older_than: timedelta | None,
    newer_than: timedelta | None,
) -> DeadLetterFilter:
    return DeadLetterFilter(
        ids=frozenset(ids),
        errors=frozenset(errors),
        older_than=older_than,
        newer_than=newer_than,
    )


_secrets = click.option(
    "--secrets", is_flag=True, help="Show passwords, query strings and data: bytes in full."
)


@click.group(short_help="List, show, replay and purge dead letters.")
def dead() -> None:
    """Dead letters: failed requests that a person can fix, kept whole.

    \b
    sensestream dead list --error audio_not_found --newer-than 12h
    sensestream dead show call-7
    sensestream dead replay --error audio_unavailable --dry-run
    sensestream dead purge --older-than 7d
    """


@dead.command("list")
@_selecting
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@_secrets
@click.pass_obj
def list_letters(setup: Setup, /, as_json: bool, secrets: bool, **conditions: Any) -> None:
    """Print dead letters, oldest first: by id, error and age, or all."""

    async def work() -> None:
        async with setup.client() as client:
            async for letter in client.dead.select(_selection(**conditions)):
                if as_json:
                    echo_json(letter.to_json(secrets=secrets))
                else:
                    click.echo(_line(letter, secrets=secrets))

    run(work())


@dead.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@_secrets
@click.pass_obj
def show(setup: Setup, ids: tuple[str, ...], secrets: bool) -> None:
    """Print dead letters whole: every field of the request, and the error."""

    async def work() -> int:
        async with setup.client() as client:
            found = [
                letter async for letter in client.dead.select(DeadLetterFilter(ids=frozenset(ids)))
            ]
        for letter in found:
            about = letter.to_json(secrets=secrets)
            for name, value in {**about, "at": _moment(letter)}.items():
                if isinstance(value, dict):
                    for field, text in value.items():
                        click.echo(f"  {shown(field)}: {shown(text)}")
                else:
                    click.echo(f"{name}: {shown(str(value))}")
        return len(found)

    if run(work()) == 0:
        raise SensestreamError(f"no dead letter has the id {', '.join(ids)}")


@dead.command()
@_selecting
@click.option("--all", "every", is_flag=True, help="Replay every letter.")
@click.option("--dry-run", is_flag=True, help="Print the letters to replay, and change nothing.")
@click.option("--ignore-deadline", is_flag=True, help="Leave out deadlines that have passed.")
@click.pass_obj
def replay(
    setup: Setup, /, every: bool, dry_run: bool, ignore_deadline: bool, **conditions: Any
) -> None:
    """Send requests again as they were, and remove each letter in the same step."""
    _need_condition(every, conditions)

    async def work() -> bool:
        kept = done = 0
        async with setup.client() as client:
            async for letter in client.dead.select(_selection(**conditions)):
                if dry_run:
                    click.echo(f"would replay {_line(letter)}")
                    continue
                result = await client.dead.replay(letter, ignore_deadline=ignore_deadline)
                if result.result is Replay.QUEUED:
                    click.echo(shown(result.sentence))
                    done += 1
                else:
                    note(shown(result.sentence))
                    kept += result.result is not Replay.NOT_FOUND
        if not dry_run:
            note(f"{done} replayed" + (f", {kept} not" if kept else ""))
        return kept == 0

    if not run(work()):
        sys.exit(1)


@dead.command()
@_selecting
@click.option("--all", "every", is_flag=True, help="Purge every letter.")
@click.option("--dry-run", is_flag=True, help="Print the letters to purge, and change nothing.")
@click.pass_obj
def purge(setup: Setup, /, every: bool, dry_run: bool, **conditions: Any) -> None:
    """Remove dead letters for good, with the uploaded bytes kept for their replay."""
    _need_condition(every, conditions)

    async def work() -> None:
        done = 0
        async with setup.client() as client:
            async for letter in client.dead.select(_selection(**conditions)):
                if dry_run:
                    click.echo(f"would purge {_line(letter)}")
                elif await client.dead.purge(letter):
                    click.echo(shown(letter.id))
                    done += 1
        if not dry_run:
            note(f"{done} purged")

    run(work())


def _need_condition(every: bool, conditions: dict[str, Any]) -> None:
    if every == any(conditions.values()):
        raise click.UsageError("choose letters by id, --error or age, or say --all")


def _line(letter: DeadLetter, *, secrets: bool = False) -> str:
    audio = letter.audio if secrets else redacted(letter.audio)
    parts = (letter.letter, _moment(letter), letter.error, letter.id, audio, letter.message)
    return "\t".join(shown(part) for part in parts)


def _moment(letter: DeadLetter) -> str:
    return datetime.fromtimestamp(letter.at / 1000, UTC).isoformat(timespec="seconds")
