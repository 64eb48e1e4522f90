"""`sensestream demo`: the whole pipeline in one command, with a Redis and a worker of its own."""

from __future__ import annotations

import asyncio
import sys
from contextlib import aclosing

import click
from rich.console import Console
from rich.status import Status as Spinner

from sensestream_producer.cli.setup import echo_json, note, run, shown
from sensestream_producer.client import Client
from sensestream_producer.demonstration import (
    Clip,
    Shown,
    bundled_clips,
    pipeline,
    play,
    wait_for_worker,
)

__all__ = ["demo"]

_COUNTERS = ("submitted", "completed", "misses", "coalesced", "hits", "failed", "dead")


@click.command(short_help="Watch speech become text, with a Redis and a worker of its own.")
@click.option("--json", "as_json", is_flag=True, help="One outcome a line, and nothing else.")
@click.option("--keep-redis", is_flag=True, help="Leave it all running afterwards, until Ctrl-C.")
def demo(as_json: bool, keep_redis: bool) -> None:
    """Watch speech become text: bundled clips through a Redis and a worker started for it.

    Each clip is submitted by reference and shown with its transcript, language, where the
    answer came from (`cache`) and how long it took; then the same clips again, which are
    answered from the cache. The embedded model knows connected digits in five languages.
    The exit status is 0 only if every transcript is right.

    \b
    sensestream demo
    sensestream demo --json | jq .text
    """
    clips = bundled_clips()
    if not run(_demo(clips, as_json, keep_redis)):
        note("sensestream: not every outcome was right")
        sys.exit(1)


async def _demo(clips: list[Clip], as_json: bool, keep_redis: bool) -> bool:
    console = Console(stderr=True)
    with Spinner("starting a redis-server and a worker", console=console) as spinner:
        async with pipeline(clips) as (redis, worker), Client(redis.url) as client:
            await wait_for_worker(client, worker)
            spinner.stop()
            results = []
            for again in (False, True):
                _headline(as_json, again)
                async with aclosing(play(client, worker, clips, again=again)) as shows:
                    async for show in shows:
                        results.append(show)
                        _show(show, as_json)
            counters = (await client.pipeline_status()).counters
            _summary(results, counters, as_json)
            if keep_redis:
                note(f"\nRedis is at {redis.url} until Ctrl-C; in another terminal, for example:")
                note(f"  sensestream --redis-url {redis.url} watch --from 0")
                await asyncio.Event().wait()
    return all(show.right for show in results)


def _headline(as_json: bool, again: bool) -> None:
    if not as_json:
        click.echo("\nThe same clips again:" if again else "The bundled clips:")
        click.echo(f"  {'reference':<22}{'language':<10}{'cache':<11}{'latency':>9}   transcript")


def _show(show: Shown, as_json: bool) -> None:
    if as_json:
        echo_json(show.outcome.to_json())
    else:
        outcome = show.outcome
        said = outcome.text if outcome.completed else f"{outcome.error}: {outcome.message}"
        wrong = "" if show.right else f"   (expected: {show.clip.text})"
        click.echo(
            f"  {show.clip.path.name:<22}{outcome.language or '-':<10}{outcome.cache or '-':<11}"
            f"{show.latency:>6.0f} ms   {shown(said)}{wrong}"
        )
    sys.stdout.flush()


def _summary(results: list[Shown], counters: dict[str, int], as_json: bool) -> None:
    if as_json:
        return
    counted = ", ".join(f"{name} {counters.get(name, 0)}" for name in _COUNTERS)
    click.echo(f"\nCounters: {counted}")
    right = sum(show.right for show in results)
    click.echo(f"{right} of {len(results)} outcomes as expected")
