"""`sensestream demo`: the whole pipeline in one command, with a Redis and a worker of its own."""

from __future__ import annotations

import asyncio
import shutil
import sys
from contextlib import aclosing, suppress
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status as Spinner
from sensestream_common.settings import load_settings

from sensestream_producer.cli.demo_session import (
    Clip,
    Shown,
    bundled_clips,
    pipeline,
    play,
    wait_for_worker,
)
from sensestream_producer.cli.gateway import load_server
from sensestream_producer.cli.setup import echo_json, note, run, shown
from sensestream_producer.client import Client
from sensestream_producer.gateway.settings import GatewaySettings

__all__ = ["demo"]

_COUNTERS = ("submitted", "completed", "misses", "coalesced", "hits", "failed", "dead")


@click.command(short_help="Watch speech become text, with a Redis and a worker of its own.")
@click.option("--json", "as_json", is_flag=True, help="Print one outcome a line as JSON.")
@click.option("--keep-redis", is_flag=True, help="Keep it all running afterwards, until Ctrl-C.")
@click.option("--serve", is_flag=True, help="Serve it over HTTP, with a page, until Ctrl-C.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Port of --serve at 127.0.0.1; 0 for any free one.",
)
def demo(as_json: bool, keep_redis: bool, serve: bool, port: int) -> None:
    """Watch speech become text: bundled clips through a Redis and a worker started for it.

    Each clip is submitted by reference and shown with its transcript, language, use of the cache
    and latency; then the same clips again, which are cache hits. The embedded model knows
    connected digits in five languages. The exit status is 0 only if every transcript is right.

    \b
    sensestream demo
    sensestream demo --json | jq .text
    sensestream demo --serve
    """
    clips = bundled_clips()
    if serve:
        run(_serve(clips, port))
        return
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


async def _serve(clips: list[Clip], port: int) -> None:
    server_module = load_server()  # before anything is started: it may not be installed
    console = Console(stderr=True)
    with Spinner("starting a redis-server and a worker", console=console) as spinner:
        async with pipeline(clips) as (redis, worker), Client(redis.url) as client:
            settings = load_settings(
                GatewaySettings,
                redis_url=redis.url,
                pipeline="sensestream",
                http_host="127.0.0.1",
                http_port=port,
                api_keys=(),
                uploads="redis",
            )
            gateway = server_module.Gateway(settings, [clip.path for clip in clips])
            url = gateway.listen()
            await wait_for_worker(client, worker)
            spinner.stop()
            click.echo(
                f"The page is at {url}/ until Ctrl-C. The embedded model knows spoken digits;"
            )
            click.echo("the page has some to try. In another terminal, for example:")
            click.echo(f"  curl -F file=@{clips[0].path} {url}/v1/audio/transcriptions")
            sys.stdout.flush()
            await gateway.serve()


def _headline(as_json: bool, again: bool) -> None:
    if not as_json:
        click.echo("\nThe same clips again:" if again else "The bundled clips:")
        click.echo(f"  {'reference':<22}{'language':<10}{'cache':<11}{'latency':>9}   transcript")


def _show(show: Shown, as_json: bool) -> None:
    if as_json:
        echo_json(show.outcome.to_json())
    else:
        outcome = show.outcome
        text = outcome.text if outcome.completed else f"{outcome.error}: {outcome.message}"
        wrong = "" if show.right else f"   (expected: {show.clip.text})"
        click.echo(
            f"  {show.clip.path.name:<22}{outcome.language or '-':<10}{outcome.cache or '-':<11}"
            f"{show.latency:>6.0f} ms   {shown(text)}{wrong}"
        )
    sys.stdout.flush()


def _summary(results: list[Shown], counters: dict[str, int], as_json: bool) -> None:
    if as_json:
        return
    counted = ", ".join(f"{name} {counters.get(name, 0)}" for name in _COUNTERS)
    click.echo(f"\nCounters: {counted}")
    right = sum(show.right for show in results)
    click.echo(f"{right} of {len(results)} outcomes as expected")
    click.echo(f"\nWith a page, over HTTP: {_command()} demo --serve")


def _command() -> str:
    """The name of this command, as a shell will find it again."""
    called = Path(sys.argv[0])
    if called.name != "sensestream" or shutil.which("sensestream"):
        return "sensestream"
    with suppress(ValueError):
        return str(called.absolute().relative_to(Path.cwd()))
    return str(called)
