"""GET /v1/events: outcomes as server-sent events, resumable by their position in the stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, suppress
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
from sensestream_producer.gateway.routes.waiting import until_stopping
from sensestream_producer.outcomes.follower import FollowedOutcome, Follower, Gap
from sensestream_producer.outcomes.stream_ids import StreamId, id_text, last_id, parse_id

__all__ = ["router"]

_KEEP_ALIVE = 10.0  # seconds between two signs of life
_METADATA = "metadata."

router = APIRouter(prefix="/v1", tags=["Live"], responses=PROBLEMS)

Filter = Callable[[Outcome], bool]


@router.get(
    "/events",
    dependencies=[Depends(require_scope(Scope.READ))],
    response_class=StreamingResponse,
    responses=EVENTS,
    summary="Stream outcomes",
)
async def events(
    request: Request,
    state: State,
    status: Annotated[Status | None, Query(description="Only outcomes with this status.")] = None,
    start: Annotated[
        str,
        Query(
            alias="from",
            description="Start of the stream: 0 for the oldest outcome that is kept, $ for new "
            "outcomes only, or the id of an event.",
        ),
    ] = "$",
    last_event_id: Annotated[str, Header(description="Continue after this event.")] = "",
) -> StreamingResponse:
    """Server-sent events: `outcome` with the outcome as JSON, and `gap` where some were lost.

    An event's id is the outcome's id in the stream. A client that reconnects with the last id it
    saw misses no outcome that is still kept. `?metadata.KEY=VALUE` selects outcomes whose metadata
    has this value, as text or as JSON.
    """
    pairs = {
        name.removeprefix(_METADATA): value
        for name, value in request.query_params.items()
        if name.startswith(_METADATA)
    }

    def selected(outcome: Outcome) -> bool:
        return (status is None or outcome.status is status) and _has(outcome.metadata, pairs)

    position = await _position(state, last_event_id or start)
    follower = Follower(state.backend.link, state.backend.keys, position)
    # Subscribe before the response begins, so that one stream too many gets a 503.
    subscription = ExitStack()
    new_outcomes = subscription.enter_context(state.notifier.subscribe())

    async def body() -> AsyncIterator[bytes]:
        with subscription, suppress(asyncio.CancelledError):
            async for event in _follow(state, follower, new_outcomes, selected):
                yield event

    return stream(body())


async def _position(state: AppState, text: str) -> StreamId:
    link, transcripts = state.backend.link, state.backend.keys.transcripts
    if text == "$":
        return await link.run(lambda: last_id(link.redis, transcripts))
    try:
        return parse_id(text)
    except SensestreamError as error:
        raise ApiError(400, "bad_request", str(error), param="from") from None


async def _follow(
    state: AppState, follower: Follower, new_outcomes: asyncio.Event, selected: Filter
) -> AsyncIterator[bytes]:
    link = state.backend.link
    # The position comes first: a client that is cut off before any outcome resumes from here.
    yield position_of(id_text(follower.position))
    while not state.stopping.is_set():
        new_outcomes.clear()
        try:
            news = await link.run(lambda: follower.read(link.redis))
        except SensestreamError:  # Redis is away: the stream goes on when it is back
            news = []
        for event in _encoded(state, news, selected):
            yield event
        if not news and not await _notified(state, new_outcomes):
            yield position_of(id_text(follower.position))


def _encoded(
    state: AppState, news: list[FollowedOutcome | Gap], selected: Filter
) -> Iterator[bytes]:
    for item in news:
        if isinstance(item, Gap):
            lost = {"lost_after": item.lost_after, "lost_until": item.lost_until}
            yield encode({"reason": item.reason, **lost}, event="gap", id=item.position)
        elif selected(item.outcome):
            outcome = state.backend.present(item.outcome)
            yield encode(outcome.to_json(), event="outcome", id=item.position)


async def _notified(state: AppState, new_outcomes: asyncio.Event) -> bool:
    """Wait until there may be new outcomes or the gateway stops; False after `_KEEP_ALIVE`."""
    with suppress(TimeoutError):
        async with asyncio.timeout(_KEEP_ALIVE):
            await until_stopping(state, new_outcomes.wait(), grace=0)
            return True
    return False


def _has(metadata: str, pairs: dict[str, str]) -> bool:
    """Whether the metadata is a JSON object with these values."""
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
