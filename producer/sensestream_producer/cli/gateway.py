"""`sensestream gateway`: the pipeline over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import structlog
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.flags import settings_flags

from sensestream_producer.cli.setup import Setup, note
from sensestream_producer.gateway.auth import Scope, new_key
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.signing import new_secret

__all__ = ["gateway", "load_server"]

_OF_THE_GROUP = ("redis_url", "pipeline")  # flags of `sensestream` itself

log = structlog.get_logger("sensestream.gateway")


@click.command(short_help="Serve the pipeline over HTTP: OpenAI's API, jobs, a page.")
@settings_flags(GatewaySettings, without=_OF_THE_GROUP)
@click.option(
    "--new-key",
    metavar="NAME",
    help="Make a key with this name, print it and its setting, and end.",
)
@click.option(
    "--scope",
    "scopes",
    type=click.Choice([scope.value for scope in Scope]),
    multiple=True,
    help="Scope of the new key; repeatable [submit, read].",
)
@click.option(
    "--new-webhook-secret", is_flag=True, help="Make a secret for webhooks, print it, and end."
)
@click.option(
    "--per-minute", type=click.IntRange(min=1), help="Limit of the new key, in requests a minute."
)
@click.pass_obj
def gateway(
    setup: Setup,
    /,
    new_key: str | None,
    scopes: tuple[str, ...],
    per_minute: int | None,
    new_webhook_secret: bool,
    **flags: Any,
) -> None:
    """Serve the pipeline over HTTP, until SIGTERM or Ctrl-C; requests under way are finished.

    \b
      /                            a page: drop a recording, watch outcomes live
      /v1/audio/transcriptions     what OpenAI's clients speak
      /v1/transcriptions           jobs, with webhooks
      /v1/events                   outcomes as server-sent events
      /docs                        all of it

    \b
    sensestream gateway
    sensestream gateway --new-key ci --scope submit
    sensestream gateway --http-host 0.0.0.0 --api-keys ci:submit:5f0c…
    """
    if new_key:
        _make_key(new_key, scopes, per_minute)
        return
    if new_webhook_secret:
        click.echo(new_secret())
        return
    _serve(setup.settings_of(GatewaySettings, **flags))


def _make_key(name: str, scopes: tuple[str, ...], per_minute: int | None) -> None:
    key, kept = new_key(name, map(Scope, scopes or (Scope.SUBMIT, Scope.READ)), per_minute)
    try:
        kept.parse(str(kept))
    except ValueError:
        raise click.BadParameter(
            f"{name!r} is no name for a key: use at most 64 letters, digits and _ . -"
        ) from None
    note("Give this to its user; it is shown once:")
    click.echo(key)
    note("and this to the gateway, in SENSESTREAM_API_KEYS (further ones behind a comma):")
    click.echo(str(kept))


def _serve(settings: GatewaySettings) -> None:
    server = load_server().Gateway(settings)
    url = server.listen()
    log.info("gateway_ready", url=url, keys=len(settings.api_keys), pipeline=settings.pipeline)
    asyncio.run(server.serve())


def load_server() -> Any:
    """The module that serves; raises `SensestreamError` where its extra is not installed."""
    try:
        from sensestream_producer.gateway import server
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sensestream"):
            raise
        raise SensestreamError(
            f"the gateway needs {error.name}: install the extra [gateway], from a checkout with "
            "pip install -e ./common -e './producer[gateway]'"
        ) from None
    return server
