"""`sensestream cache`: the cached results counted, warmed and cleared."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.outcome import Outcome
from sensestream_common.contract.request import LANGUAGES

from sensestream_producer.cli.many import audio_of, handled, named, progress_bar, refuse_folders
from sensestream_producer.cli.setup import Setup, echo_json, note, run, shown
from sensestream_producer.operations.result_cache import CacheStats, OnPage
from sensestream_producer.submit.submission import Submission

__all__ = ["cache"]


@click.group(short_help="Count, warm and clear the cached results.")
def cache() -> None:
    """Cached results: equal requests are transcribed once.

    \b
    sensestream cache stats --fail-hit-rate-below 0.2 --fail-results-above 1000000
    sensestream cache warm --language en greetings/*.wav
    sensestream cache clear --model SenseVoiceSmall
    """


@cache.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--fail-hit-rate-below",
    type=click.FloatRange(0, 1),
    metavar="SHARE",
    help="Exit with status 1 if the hit rate is below SHARE (0 to 1).",
)
@click.option(
    "--fail-results-above",
    type=click.IntRange(min=0),
    metavar="NUMBER",
    help="Exit with status 1 if more than NUMBER results are kept.",
)
@click.pass_obj
def stats(
    setup: Setup, as_json: bool, fail_hit_rate_below: float | None, fail_results_above: int | None
) -> None:
    """Print the number of cached results, their models, and the hit rate.

    Counts with SCAN, which never blocks Redis.
    """

    async def work() -> CacheStats:
        async with setup.results() as results:
            with _counting("counting results") as on_page:
                return await results.stats(on_page)

    found = run(work())
    if as_json:
        echo_json(found.to_json())
    else:
        for name, value in _rows(found):
            click.echo(f"{name:<14}{shown(str(value))}")
    alarms = _alarms(found, fail_hit_rate_below, fail_results_above)
    for alarm in alarms:
        note(f"sensestream: {alarm}")
    if alarms:
        sys.exit(1)


@cache.command()
@click.argument("sources", metavar="FILE|URL…", nargs=-1)
@click.option(
    "--from",
    "listed",
    type=click.File(encoding="utf-8"),
    metavar="LIST",
    help="File with a FILE or URL on each line; - for standard input.",
)
@click.option("--by-reference", is_flag=True, help="Send a file's file:// URL, not its bytes.")
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="auto",
    show_default=True,
    help="Language that the later requests will name.",
)
@click.option(
    "--itn/--no-itn",
    default=True,
    help="Punctuation and digits, or words as spoken: as the later requests will ask.",
)
@click.option("--ttl", type=click.IntRange(min=1), metavar="SECONDS", help="Retention of results.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for each recording.",
)
@click.pass_obj
def warm(setup: Setup, /, sources: tuple[str, ...], listed: Any, **options: Any) -> None:
    """Transcribe recordings in advance, so that later requests for them are cache hits.

    A result is found by its audio, the language asked for and ITN: warm with those that the
    later requests will name.
    """
    sources += tuple(line.strip() for line in listed or () if line.strip())
    if not sources:
        raise click.UsageError("name recordings, or a list of them with --from LIST")
    refuse_folders(sources)
    limit = setup.settings().max_upload_bytes
    named = {name: options[name] for name in ("language", "itn", "ttl")}
    submissions = [
        Submission(audio=audio_of(each, limit, by_reference=options["by_reference"]), **named)
        for each in sources
    ]
    named_jobs = list(zip(sources, submissions, strict=True))
    counted = run(_warm(setup, named_jobs, options["timeout"]))
    click.echo(
        f"{counted['miss'] + counted['coalesced']} transcribed, {counted['hit']} cached already, "
        f"{counted['failed']} failed"
    )
    if counted["failed"]:
        sys.exit(1)


async def _warm(setup: Setup, jobs: list[tuple[str, Submission]], timeout: float) -> Counter[str]:
    """Count the outcomes by their use of the cache, and the failures, which are printed at once."""
    counted: Counter[str] = Counter()
    async with setup.client() as client:
        await client.ping()

        async def transcribe(job: tuple[str, Submission]) -> Outcome:
            return await client.transcribe(job[1], timeout=timeout)

        results = handled(jobs, transcribe)
        async with aclosing(results):
            with progress_bar("warming", len(jobs)) as advance:
                async for (source, _), result in results:
                    advance()
                    if failure := _failure(result):
                        note(f"sensestream: {named(source)}: {shown(failure)}")
                    counted[str(getattr(result, "cache", None) or "failed")] += 1
    return counted


def _failure(result: Outcome | SensestreamError) -> str:
    """The reason why a recording was not transcribed; empty if it was."""
    if isinstance(result, SensestreamError):
        return str(result)
    return "" if result.completed else f"{result.error}: {result.message}"


@cache.command()
@click.option("--model", default="", metavar="NAME", help="Model whose results are removed.")
@click.option("--all", "every", is_flag=True, help="Remove every result.")
@click.option("--dry-run", is_flag=True, help="Print the number of results, and remove none.")
@click.pass_obj
def clear(setup: Setup, model: str, every: bool, dry_run: bool) -> None:
    """Remove cached results: all, or those of a retired model.

    Requests are still answered; their recordings are transcribed again.
    """
    if every == bool(model):
        raise click.UsageError("choose results with --model NAME, or --all")

    async def work() -> int:
        async with setup.results() as results:
            with _counting("looking at results") as on_page:
                return await results.clear(model, dry_run=dry_run, on_page=on_page)

    count = run(work())
    click.echo(f"{count} would be removed" if dry_run else f"{count} removed")


def _rows(found: CacheStats) -> Iterator[tuple[str, object]]:
    yield "results", f"{found.results} in about {found.bytes / 2**20:.1f} MiB"
    for model, count in found.models.items():
        yield f"  {model}", count
    rate = "none yet" if found.hit_rate is None else f"{found.hit_rate:.1%}"
    yield (
        "hit rate",
        f"{rate} ({found.hits} hits, {found.coalesced} coalesced, {found.misses} misses)",
    )
    yield "evicted", "unknown" if found.evicted is None else f"{found.evicted} keys of this Redis"


def _alarms(
    found: CacheStats, fail_hit_rate_below: float | None, fail_results_above: int | None
) -> list[str]:
    alarms = []
    if (
        fail_hit_rate_below is not None
        and found.hit_rate is not None
        and found.hit_rate < fail_hit_rate_below
    ):
        alarms.append(
            f"the hit rate is {found.hit_rate:.1%}, below "
            f"{fail_hit_rate_below:.1%}: do equal requests name the same language and "
            "ITN, and is SENSESTREAM_RESULT_TTL longer than the time between them?"
        )
    if fail_results_above is not None and found.results > fail_results_above:
        alarms.append(
            f"{found.results} results are kept, more than {fail_results_above}: shorten "
            "SENSESTREAM_RESULT_TTL, or remove a retired model's with `cache clear --model`"
        )
    return alarms


@contextmanager
def _counting(what: str) -> Iterator[OnPage]:
    """A growing count at a terminal: the number of keys is not known in advance."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TextColumn("{task.completed}"))
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task(what, total=None)
        yield lambda count: progress.advance(task, count)
