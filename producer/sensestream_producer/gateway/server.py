"""Serves the application with uvicorn: the listening socket, signals, shutdown."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from fastapi import FastAPI
from sensestream_common.contract.errors import SettingsError

from sensestream_producer.gateway.app import create_app
from sensestream_producer.gateway.dependencies import AppState
from sensestream_producer.gateway.middleware import Guard
from sensestream_producer.gateway.protocol import HeadTimeoutProtocol
from sensestream_producer.gateway.settings import GatewaySettings

__all__ = ["Gateway", "open_socket", "require_keys"]

_BACKLOG = 2048
_KEEP_ALIVE = 75  # seconds: above load balancers' 60, or they would reuse a closed connection
_SIGNALS = (signal.SIGTERM, signal.SIGINT)

log = structlog.get_logger("sensestream.gateway")


class Gateway(uvicorn.Server):
    """One gateway: `listen` opens its port, `serve` answers calls until it is told to stop."""

    def __init__(self, settings: GatewaySettings, samples: Sequence[Path] = ()) -> None:
        require_keys(settings)
        self._settings = settings
        self._app = create_app(settings, samples)
        self._socket: socket.socket | None = None
        super().__init__(_config(settings, self._app))

    def listen(self) -> str:
        """Open the port, and return the URL of this gateway.

        Raises `SettingsError` when it cannot listen there.
        """
        host, port = self._settings.http_host, self._settings.http_port
        try:
            self._socket = open_socket(host, port)
        except OSError as error:
            raise SettingsError(
                f"SENSESTREAM_HTTP_PORT={port}: cannot listen on {host}: "
                f"{error.strerror or error} (--http-port takes another, 0 any that is free)"
            ) from None
        shown = f"[{host}]" if self._socket.family == socket.AF_INET6 else host
        return f"http://{shown}:{self._socket.getsockname()[1]}"

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer calls until told to stop, then finish those that are under way."""
        if self._socket is None:
            self.listen()
        assert self._socket is not None  # noqa: S101 - for the type checker
        await super().serve(sockets or [self._socket])

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the loop. Exit with status 0: uvicorn would raise the signal again."""
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's
        """The first signal stops the gateway after the calls under way, a second one at once."""
        log.info("stopping", signal=signal.Signals(sig).name, now=self.should_exit)
        self.stop_waiting()
        self.force_exit = self.should_exit
        self.should_exit = True

    def stop_waiting(self) -> None:
        """End streams of events and long waits for jobs: clients resume them at other gateways."""
        state: AppState | None = getattr(self._app.state, "gateway", None)
        if state is not None:
            state.stopping.set()


def open_socket(host: str, port: int) -> socket.socket:
    """A listening socket with an explicit protocol number, IPPROTO_TCP.

    asyncio sets TCP_NODELAY only on such sockets, and `socket.create_server` makes others. Without
    it the body of a response waits 40 ms for the acknowledgement of its head.
    """
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    server_socket = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            server_socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        server_socket.bind((host, port))
        server_socket.listen(_BACKLOG)
    except OSError:
        server_socket.close()
        raise
    return server_socket


def require_keys(settings: GatewaySettings) -> None:
    """Raise `SettingsError` for a gateway that the network reaches and that asks for no key."""
    if settings.api_keys or settings.allow_anonymous or _is_loopback(settings.http_host):
        return
    raise SettingsError(
        f"SENSESTREAM_HTTP_HOST={settings.http_host!r} is not loopback, and no key is set: anyone "
        "who reaches it could submit and read everything. Make a key with `sensestream gateway "
        "--new-key NAME` for SENSESTREAM_API_KEYS, or set SENSESTREAM_ALLOW_ANONYMOUS=1"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _config(settings: GatewaySettings, app: FastAPI) -> uvicorn.Config:
    HeadTimeoutProtocol.head_timeout = settings.receive_timeout
    return uvicorn.Config(
        Guard(app, settings),
        http=HeadTimeoutProtocol,
        ws="none",
        lifespan="on",
        loop="asyncio",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=_KEEP_ALIVE,
        limit_concurrency=settings.max_connections,
        timeout_graceful_shutdown=round(settings.drain_timeout),
    )
