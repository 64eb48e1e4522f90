"""Outcomes as they happen: /v1/events, as server-sent events that can be resumed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.responses import StreamingResponse
from sensestream_common.contract.errors import SensestreamError
from sensestream_common.contract.outcome import Outcome, Status

from sensestream_producer.gateway.auth import Scope
from sensestream_producer.gateway.dependencies import AppState, State, require_scope
from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.openapi import EVENTS, PROBLEMS
from sensestream_producer.gateway.routes.sse import encode, position_of, stream
from sensestream_producer.outcomes.follower import FollowedOutcome, Follower, Gap
from sensestream_producer.outcomes.stream_ids import StreamId, id_text, last_id, parse_id

__all__ = ["router"]

_KEEP_ALIVE = 10.0  # seconds between signs of life
_METADATA = "metadata."

router = APIRouter(prefix="/v1", tags=["Live"], responses=PROBLEMS)

Wanted = Callable[[Outcome], bool]


@router.get(
    "/events",
    dependencies=[Depends(require_scope(Scope.READ))],
    response_class=StreamingResponse,
    responses=EVENTS,
    summary="Every outcome as it comes",
)
async def events(
    request: Request,
    here: State,
    status: Annotated[Status | None, Query(description="Only these.")] = None,
    start: Annotated[
        str,
        Query(alias="from", description="0: all that are kept; $: from now on; or an event's id."),
    ] = "$",
    last_event_id: Annotated[str, Header(description="Go on behind this event.")] = "",
) -> StreamingResponse:
    """Server-sent events: `outcome` with the outcome as JSON, and `gap` where some were lost.

    An event's id is the outcome's in the stream. A client that comes back with the last one it saw
    misses nothing that is still kept. `?metadata.KEY=VALUE` takes only outcomes whose metadata has
    this value, as text or as JSON.
    """
    pairs = {
        name.removeprefix(_METADATA): value
        for name, value in request.query_params.items()
        if name.startswith(_METADATA)
    }
    position = await _position(here, last_event_id or start)

    def wanted(outcome: Outcome) -> bool:
        return (status is None or outcome.status is status) and _has(outcome.metadata, pairs)

    pipeline = here.pipeline
    follower = Follower(pipeline.link, pipeline.keys, position)
    # Entered here, so that one stream too many is refused and not merely empty.
    listening = here.bell.listening()
    bell = listening.__enter__()

    async def whole() -> AsyncIterator[bytes]:
        with suppress(asyncio.CancelledError):
            try:
                async for event in _follow(here, follower, bell, wanted):
                    yield event
            finally:
                listening.__exit__(None, None, None)

    return stream(whole())


async def _position(here: AppState, text: str) -> StreamId:
    link, transcripts = here.pipeline.link, here.pipeline.keys.transcripts
    if text == "$":
        return await link.run(lambda: last_id(link.redis, transcripts))
    try:
        return parse_id(text)
    except SensestreamError as error:
        raise ApiError(400, "bad_request", str(error), param="from") from None


async def _follow(
    here: AppState, follower: Follower, bell: asyncio.Event, wanted: Wanted
) -> AsyncIterator[bytes]:
    link = here.pipeline.link
    # With the position at once: who is cut off before the first outcome goes on from here.
    yield position_of(id_text(follower.position))
    while not here.stopping.is_set():
        bell.clear()
        try:
            news = await link.run(lambda: follower.read(link.redis))
        except (
            SensestreamError
        ):  # away for longer than patience: the stream goes on when it is back
            news = []
        for part in _encoded(here, news, wanted):
            yield part
        if not news and not await _rung(here, bell):
            yield position_of(id_text(follower.position))


def _encoded(here: AppState, news: list[FollowedOutcome | Gap], wanted: Wanted) -> Iterator[bytes]:
    for one in news:
        if isinstance(one, Gap):
            lost = {"lost_after": one.lost_after, "lost_until": one.lost_until}
            yield encode({"reason": one.reason, **lost}, event="gap", id=one.position)
        elif wanted(one.outcome):
            outcome = here.pipeline.present(one.outcome)
            yield encode(outcome.to_json(), event="outcome", id=one.position)


async def _rung(here: AppState, bell: asyncio.Event) -> bool:
    """Whether there may be news, or the gateway stops; false after a while without."""
    waits = [asyncio.create_task(bell.wait()), asyncio.create_task(here.stopping.wait())]
    try:
        done, _ = await asyncio.wait(
            waits, timeout=_KEEP_ALIVE, return_when=asyncio.FIRST_COMPLETED
        )
        return bool(done)
    finally:
        for wait in waits:
            wait.cancel()


def _has(metadata: str, pairs: dict[str, str]) -> bool:
    """Whether the metadata has these values."""
    if not pairs:
        return True
    try:
        found: Any = json.loads(metadata) if metadata else None
    except ValueError:
        return False
    return isinstance(found, dict) and all(
        name in found and value in (found[name], json.dumps(found[name], ensure_ascii=False))
        for name, value in pairs.items()
    )
