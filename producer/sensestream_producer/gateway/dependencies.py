"""The application's state, and the dependencies of the routes: `State` and `require_scope`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from sensestream_producer.gateway.auth import ApiKey, RateLimiter, Scope, find_key
from sensestream_producer.gateway.backend import Backend
from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.outcome_notifier import OutcomeNotifier
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.uploads.multipart import Form, read_form

__all__ = ["AppState", "Caller", "State", "require_scope"]

_UPLOAD_SLOT_WAIT = 30.0  # seconds that an upload waits for a slot before it gets a 503

_bearer = HTTPBearer(auto_error=False, description="A key of this gateway.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key.")


@dataclass(slots=True)
class AppState:
    """Settings and components of one gateway.

    `samples` are recordings that the page offers, by name. `stopping` is set when the gateway is
    told to stop.
    """

    settings: GatewaySettings
    backend: Backend
    notifier: OutcomeNotifier
    keys: tuple[ApiKey, ...]
    upload_slots: asyncio.Semaphore
    samples: dict[str, Path]
    rate_limiter: RateLimiter = field(default_factory=RateLimiter)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def form(self, request: Request) -> AsyncIterator[Form]:
        """The form in a request's body; its files, and an upload slot, are held within the block.

        Leave the block once the files are submitted: waiting for a transcript needs no slot.

        Raises `ApiError`: 503 when no slot becomes free, else as `read_form` does.
        """
        try:
            async with asyncio.timeout(_UPLOAD_SLOT_WAIT):
                await self.upload_slots.acquire()
        except TimeoutError:
            message = "too many uploads at once: send it again later"
            raise ApiError(503, "too_many_uploads", message, retry_after=5) from None
        max_file_bytes, pause = self.settings.max_upload_bytes, self.settings.receive_timeout
        try:
            async with read_form(request, max_file_bytes=max_file_bytes, pause=pause) as form:
                yield form
        finally:
            self.upload_slots.release()


async def _state(request: Request) -> AppState:
    return cast("AppState", request.app.state.gateway)


State = Annotated[AppState, Depends(_state)]


@dataclass(frozen=True, slots=True)
class Caller:
    """The caller of a route: a key's name and scopes. Without keys: no name, and every scope."""

    name: str
    scopes: frozenset[Scope]


def require_scope(scope: Scope | None) -> Callable[..., Awaitable[Caller]]:
    """A dependency that requires a key with this scope; with `None` any key of this gateway.

    The dependency raises `ApiError`: 401 without a valid key, 403 without the scope, 429 above the
    caller's rate.
    """

    async def check(
        request: Request,
        state: State,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> Caller:
        presented = bearer.credentials if bearer else header or ""
        caller, rate_key, rate = _authenticate(state, request, presented)
        if scope is not None and scope not in caller.scopes:
            message = f"the key {caller.name!r} lacks the scope {scope}: use one that has it"
            raise ApiError(403, "scope_missing", message)
        if rate and (wait := state.rate_limiter.take(rate_key, rate)):
            message = f"more than {rate} requests a minute: send it again in {wait:.1f} s"
            raise ApiError(429, "rate_limit_exceeded", message, retry_after=wait)
        return caller

    return check


def _authenticate(state: AppState, request: Request, presented: str) -> tuple[Caller, str, int]:
    """The caller, the name under which its rate is counted, and its requests a minute."""
    default = state.settings.rate_limit
    if not state.keys:
        address = request.client.host if request.client else ""
        return Caller("", frozenset(Scope)), address, default
    key = find_key(state.keys, presented) if presented else None
    if key is None:
        problem = "this key is not known" if presented else "a key is needed"
        message = f"{problem}: send Authorization: Bearer KEY"
        raise ApiError(401, "invalid_api_key", message, headers={"WWW-Authenticate": "Bearer"})
    return Caller(key.name, key.scopes), key.name, key.per_minute or default
