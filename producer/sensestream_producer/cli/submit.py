"""`sensestream submit`: submits recordings, and waits for their transcripts on request."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.outcome import Outcome
from sensestream_common.contract.request import LANGUAGES

from sensestream_producer.cli.many import (
    STDIN,
    audio_of,
    handled,
    named,
    progress_bar,
    refuse_folders,
)
from sensestream_producer.cli.setup import Setup, echo_json, note, run, shown
from sensestream_producer.client import Client
from sensestream_producer.outcomes.subtitles import srt, vtt
from sensestream_producer.submit.submission import Receipt, Submission

__all__ = ["submit"]


@dataclass(frozen=True, slots=True)
class Job:
    """One argument of the command line."""

    source: str
    submission: Submission

    @property
    def shown(self) -> str:
        """The argument as a message names it, which may end in a log."""
        return named(self.source)


@click.command(short_help="Submit recordings; --wait prints their transcripts.")
@click.argument("sources", metavar="FILE|URL…", nargs=-1, required=True)
@click.option("--by-reference", is_flag=True, help="Send a file's file:// URL, not its bytes.")
@click.option(
    "--language",
    type=click.Choice(LANGUAGES),
    default="auto",
    show_default=True,
    help="Language of the speech.",
)
@click.option("--itn/--no-itn", default=True, help="Punctuation and digits, or words as spoken.")
@click.option(
    "--priority",
    type=click.Choice(["normal", "high"]),
    default="normal",
    show_default=True,
    help="Queue lane. high is read first; one entry in nine still comes from normal.",
)
@click.option(
    "--id", "request_id", default="", help="Id of the request; the same again adds nothing."
)
@click.option("--ttl", type=int, metavar="SECONDS", help="Retention of the result; 0 stores none.")
@click.option(
    "--deadline",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="Time from now on after which the answer is worthless.",
)
@click.option(
    "--callback-url", metavar="URL", default="", help="URL that receives the outcome as a webhook."
)
@click.option(
    "--traceparent",
    metavar="CONTEXT",
    default="",
    envvar="TRACEPARENT",
    show_envvar=True,
    help="W3C trace context, returned with the outcome.",
)
@click.option(
    "--metadata", metavar="JSON", default="", help="JSON that is returned with the outcome."
)
@click.option(
    "--max-upload-bytes", type=int, metavar="BYTES", help="Largest file to upload [100 MiB]."
)
@click.option("--wait", is_flag=True, help="Wait for the transcripts and print them.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=300.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for each transcript.",
)
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "srt", "vtt"]),
    default="text",
    show_default=True,
    help="Output format; srt and vtt imply --wait.",
)
@click.option(
    "--as-completed",
    is_flag=True,
    help="Print transcripts as they complete, not in the order given; implies --wait.",
)
@click.option(
    "--output-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for a file of each transcript; implies --wait.",
)
@click.pass_obj
def submit(setup: Setup, /, sources: tuple[str, ...], **options: Any) -> None:
    """Submit recordings: files, which are uploaded, or URLs, which workers open.

    Prints the id of each request, or with --wait its transcript.

    \b
    sensestream submit --wait talk.wav
    sensestream submit --wait --language zh --format srt film.mp3 > film.srt
    sensestream submit --wait --output-dir texts *.wav
    sensestream submit https://example.org/a.mp3 --metadata '{"ticket": 7}'
    sensestream submit call.wav --priority high --deadline 30
    sensestream submit call.wav --callback-url https://example.org/outcomes
    sensestream submit --by-reference /data/a.wav   (a folder that the workers may read)
    ffmpeg -i film.mkv -f wav - | sensestream submit --wait -
    """
    _check(sources, options)
    options["wait"] |= options["as_completed"]
    options["wait"] |= options["form"] in ("srt", "vtt") or options["output_dir"] is not None
    limit = setup.settings(max_upload_bytes=options["max_upload_bytes"]).max_upload_bytes
    jobs = [Job(source, _submission(source, options, limit)) for source in sources]
    failures = run(_submit_all(setup, jobs, options))
    if failures:
        sys.exit(1)


def _check(sources: Sequence[str], options: dict[str, Any]) -> None:
    if len(sources) > 1 and options["request_id"]:
        raise click.UsageError("--id names one request: submit one recording with it")
    if len(sources) > 1 and options["form"] in ("srt", "vtt") and not options["output_dir"]:
        raise click.UsageError(f"--format {options['form']} of several files needs --output-dir")
    if sources.count(STDIN) > 1:
        raise click.UsageError("- (standard input) can be given once")
    refuse_folders(sources)


def _submission(source: str, options: dict[str, Any], limit: int) -> Submission:
    seconds = options["deadline"]
    return Submission(
        audio=audio_of(source, limit, by_reference=options["by_reference"]),
        id=options["request_id"],
        language=options["language"],
        itn=options["itn"],
        priority=options["priority"],
        ttl=options["ttl"],
        deadline=None if seconds is None else timedelta(seconds=seconds),
        callback_url=options["callback_url"],
        metadata=options["metadata"],
        traceparent=options["traceparent"],
    )


async def _submit_all(setup: Setup, jobs: list[Job], options: dict[str, Any]) -> int:
    """Submit all jobs; returns the number that failed."""
    names = dict(zip(jobs, _output_names(jobs, options), strict=True))
    what = "transcribing" if options["wait"] else "submitting"
    failures = 0
    async with setup.client(max_upload_bytes=options["max_upload_bytes"]) as client:
        await client.ping()
        results = handled(
            jobs,
            lambda job: _handle(client, job, options),
            as_completed=options["as_completed"],
        )
        async with aclosing(results):
            with progress_bar(what, len(jobs)) as advance:
                async for job, result in results:
                    failures += not _report(job, result, options, names[job], len(jobs))
                    advance()
    return failures


async def _handle(client: Client, job: Job, options: dict[str, Any]) -> Receipt | Outcome:
    if options["wait"]:
        return await client.transcribe(job.submission, timeout=options["timeout"])
    return await client.submit(job.submission)


def _report(
    job: Job,
    result: Receipt | Outcome | SensestreamError,
    options: dict[str, Any],
    name: Path | None,
    jobs: int,
) -> bool:
    """Print the result of a job; returns whether it succeeded."""
    if isinstance(result, SensestreamError):
        note(f"sensestream: {job.shown}: {result}")
        return False
    if isinstance(result, Receipt):
        _print_receipt(job, result, options["form"], jobs)
        return True
    if not result.completed:
        note(f"sensestream: {job.shown}: {result.error}: {shown(result.message)}")
        if options["form"] == "json" and not name:
            echo_json(result.to_json())
        return False
    for warning in result.warnings:
        note(f"sensestream: {job.shown}: warning: {shown(warning.message)}")
    text = _rendered(result, options["form"])
    if name:
        name.parent.mkdir(parents=True, exist_ok=True)
        name.write_text(text, "utf-8")
    elif options["form"] == "text" and jobs > 1:
        click.echo(f"{shown(job.source)}\t{shown(result.text)}")
    else:
        click.echo(text, nl=False)
    return True


def _print_receipt(job: Job, receipt: Receipt, form: str, jobs: int) -> None:
    if form == "json":
        fields = ("id", "entry", "lane", "duplicate", "state", "status", "outcome")
        about = {field: getattr(receipt, field) for field in fields}
        echo_json(
            {"source": job.source, **{name: each for name, each in about.items() if each != ""}}
        )
        return
    click.echo(f"{shown(job.source)}\t{receipt.id}" if jobs > 1 else receipt.id)
    if receipt.duplicate:
        note(f"the id {receipt.id!r} stands already ({receipt.state}): nothing was added")


def _rendered(outcome: Outcome, form: str) -> str:
    if form == "json":
        return outcome.dumps() + "\n"
    if form in ("srt", "vtt"):
        return srt(outcome) if form == "srt" else vtt(outcome)
    return outcome.text + "\n"


def _output_names(jobs: list[Job], options: dict[str, Any]) -> Iterator[Path | None]:
    """A file for each job in the output directory: its own name, numbered where two clash."""
    suffix = {"text": "txt"}.get(options["form"], options["form"])
    taken: set[str] = set()
    for job in jobs:
        stem = Path(job.source.partition("?")[0]).stem if job.source != STDIN else "stdin"
        base = "".join(char if char.isprintable() and char not in "/\\:" else "_" for char in stem)
        name, number = base or "audio", 1
        while name in taken:
            number += 1
            name = f"{base}-{number}"
        taken.add(name)
        yield options["output_dir"] / f"{name}.{suffix}" if options["output_dir"] else None
