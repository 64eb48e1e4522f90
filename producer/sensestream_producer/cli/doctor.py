"""`sensestream doctor`: faults and risks of a pipeline, and how to fix them."""

from __future__ import annotations

import shutil
import sys
import textwrap

import click
from sensestream_common.findings import Finding, Level, worst

from sensestream_producer.cli.setup import Setup, echo_json, run, shown
from sensestream_producer.operations.doctor import examine

__all__ = ["doctor"]

_COLOURS = {Level.OK: "green", Level.WARNING: "yellow", Level.FAULT: "red"}
_LEVEL, _INDENT = 9, 27  # the widths of the first column, and of the first two


@click.command(short_help="Find faults of the pipeline, and how to fix them.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object: status and findings.")
@click.option(
    "--worker/--no-worker",
    default=True,
    show_default=True,
    help="Run `sensestream-worker --check` too, where it is installed. It loads the model that "
    "SENSESTREAM_MODEL names, and so takes a worker's memory for a moment.",
)
@click.pass_obj
def doctor(setup: Setup, as_json: bool, worker: bool) -> None:
    """Find faults of Redis, queue, clocks and this machine's worker, and how to fix them.

    It writes nothing, and may run beside a busy pipeline. The exit status is 1 when there is a
    fault (requests are not answered, or are being lost), and 0 with warnings (something may be
    lost, or soon is).

    \b
    sensestream doctor
    sensestream doctor --json | jq -r '.findings[] | select(.level != "ok") | .observed'
    """
    findings = run(examine(setup.settings(), worker=worker))
    status = worst(findings)
    if as_json:
        found = [finding.to_json() for finding in findings]
        echo_json({"status": status.value, "findings": found})
    else:
        for finding in findings:
            _print(finding)
    if status is Level.FAULT:
        sys.exit(1)


def _print(finding: Finding) -> None:
    """Level, check, observation and fix; wrapped at a terminal."""
    width = shutil.get_terminal_size().columns - 1 if sys.stdout.isatty() else sys.maxsize
    indent = " " * _INDENT
    texts = [finding.observed, f"→ {finding.fix}"] if finding.fix else [finding.observed]
    body = "\n".join(
        textwrap.fill(
            shown(text), max(width, 2 * _INDENT), initial_indent=indent, subsequent_indent=indent
        )
        for text in texts
    )
    level = click.style(f"{finding.level.value:<{_LEVEL}}", fg=_COLOURS[finding.level])
    head = level + finding.check.replace("_", " ").ljust(_INDENT - _LEVEL)
    click.echo(head + body[_INDENT:])
