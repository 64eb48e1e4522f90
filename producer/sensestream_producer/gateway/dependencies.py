"""What every route finds in the application's state, and the dependencies that hand it out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, cast

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from sensestream_producer.gateway.auth import ApiKey, Rates, Scope, find_key
from sensestream_producer.gateway.backend import Pipeline
from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.outcome_notifier import OutcomeNotifier
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.uploads.multipart import Form, FormLimits, read_form

__all__ = ["AppState", "Caller", "Gate", "State", "require_scope"]

_PLACE_WAIT = 30.0  # seconds that an upload waits for a place before it gets a 503

_bearer = HTTPBearer(auto_error=False, description="A key of this gateway.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same, elsewhere.")


@dataclass(slots=True)
class AppState:
    """One gateway's settings and parts; `stopping` is set when it is told to end."""

    settings: GatewaySettings
    pipeline: Pipeline
    bell: OutcomeNotifier
    keys: tuple[ApiKey, ...]
    places: asyncio.Semaphore
    samples: dict[str, Path]  # recordings to try it with, by name
    rates: Rates = field(default_factory=Rates)
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def form(self, request: Request) -> AsyncIterator[Form]:
        """The form in a request's body, received in one of the places there are for that.

        Leave the block when its files are handed in: whoever waits for a transcript needs no
        place.
        """
        try:
            async with asyncio.timeout(_PLACE_WAIT):
                await self.places.acquire()
        except TimeoutError:
            raise ApiError(
                503, "too_many_uploads", "too many uploads at once: send it again later",
                retry_after=5,
            ) from None  # fmt: skip
        limits = FormLimits(self.settings.max_upload_bytes, self.settings.receive_timeout)
        try:
            with await read_form(request, limits) as form:
                yield form
        finally:
            self.places.release()


def _here(request: Request) -> AppState:
    return cast("AppState", request.app.state.surroundings)


async def _surroundings(request: Request) -> AppState:
    return _here(request)


State = Annotated[AppState, Depends(_surroundings)]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls: a key's name and scopes, or nobody in particular, who may do everything."""

    name: str
    scopes: frozenset[Scope]


Gate = Callable[..., Awaitable[Caller]]


def require_scope(scope: Scope | None) -> Gate:
    """A dependency that lets in who may do this; with `None` any caller who is known.

    Raises `ApiError`: 401 without a valid key, 403 without the scope, 429 above the rate.
    """

    async def gate(
        request: Request,
        bearer: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)],
        header: Annotated[str | None, Security(_header)],
    ) -> Caller:
        here = _here(request)
        presented = bearer.credentials if bearer else header or ""
        caller, who, rate = _identify(here, request, presented)
        if scope is not None and scope not in caller.scopes:
            raise ApiError(
                403, "scope_missing",
                f"the key {caller.name!r} lacks the scope {scope}: use one that has it",
            )  # fmt: skip
        if rate and (wait := here.rates.take(who, rate)):
            raise ApiError(
                429, "rate_limit_exceeded",
                f"more than {rate} requests a minute: send it again in {wait:.1f} s",
                retry_after=wait,
            )  # fmt: skip
        return caller

    return gate


def _identify(here: AppState, request: Request, presented: str) -> tuple[Caller, str, int]:
    """The caller, by which name its rate is counted, and the rate."""
    default = here.settings.rate_limit
    if not here.keys:
        address = request.client.host if request.client else ""
        return Caller("", frozenset(Scope)), address, default
    key = find_key(here.keys, presented) if presented else None
    if key is None:
        said = "this key is not known" if presented else "a key is needed"
        raise ApiError(
            401, "invalid_api_key", f"{said}: send Authorization: Bearer KEY",
            headers={"WWW-Authenticate": "Bearer"},
        )  # fmt: skip
    return Caller(key.name, key.scopes), key.name, key.per_minute or default
