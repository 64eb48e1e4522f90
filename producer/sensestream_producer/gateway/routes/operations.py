"""Health, access, status and dead letters: for operators and for their machines."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from fastapi.responses import JSONResponse
from sensestream_common import __version__
from sensestream_common.contract.errors import SensestreamError

from sensestream_producer.gateway.auth import Scope
from sensestream_producer.gateway.dependencies import Caller, State, require_scope
from sensestream_producer.gateway.errors import ApiError
from sensestream_producer.gateway.openapi import PROBLEMS
from sensestream_producer.operations.dead_letters import Replay

__all__ = ["router"]

router = APIRouter(responses=PROBLEMS)

_REPLAY_STATUS = {
    Replay.NOT_FOUND: 404,
    Replay.ALREADY_QUEUED: 409,
    Replay.ALREADY_COMPLETED: 409,
    Replay.FULL: 503,
    Replay.UPLOAD_MISSING: 410,
    Replay.EXPIRED: 410,
}


@router.get("/health", tags=["Health"], summary="Check that the gateway is alive")
async def health() -> dict[str, Any]:
    """Answers as long as the gateway runs."""
    return {"status": "healthy", "version": __version__}


@router.get(
    "/health/ready",
    tags=["Health"],
    summary="Check that the gateway can take requests",
    responses={503: {"description": "It cannot; the body names the reason."}},
)
async def ready(state: State) -> JSONResponse:
    """Ready while Redis answers and the gateway is not stopping. Workers are not needed."""
    if state.stopping.is_set():
        return JSONResponse({"ready": False, "reason": "the gateway is stopping"}, 503)
    try:
        await state.backend.ping()
    except SensestreamError:
        return JSONResponse({"ready": False, "reason": "Redis does not answer"}, 503)
    return JSONResponse({"ready": True})


@router.get("/v1/access", tags=["Watch"], summary="Get the name and scopes of your key")
async def access(
    state: State, caller: Annotated[Caller, Depends(require_scope(None))]
) -> dict[str, Any]:
    """`keys` is false where the gateway asks for no key; every caller then has all scopes."""
    return {"name": caller.name, "scopes": sorted(caller.scopes), "keys": bool(state.keys)}


@router.get(
    "/v1/status",
    tags=["Watch"],
    dependencies=[Depends(require_scope(Scope.READ))],
    summary="Get backlog, workers and counters",
)
async def status(state: State) -> dict[str, Any]:
    """The backlog of both lanes, the living workers and the pipeline's counters."""
    found = (await state.backend.pipeline_status()).to_json()
    for worker in found["workers"]:
        worker.pop("pid")
    return found


@router.get(
    "/v1/dead-letters",
    tags=["Watch"],
    dependencies=[Depends(require_scope(Scope.OPERATE))],
    summary="List dead letters",
)
async def dead_letters(
    state: State, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """Requests that failed and that an operator can fix, the oldest first, without secrets."""
    letters: list[dict[str, Any]] = []
    selected = state.backend.dead.select()
    async for letter in selected:
        if len(letters) == limit:
            break
        letters.append(letter.to_json(secrets=False))
    await selected.aclose()
    return {"data": letters}


@router.post(
    "/v1/dead-letters/{letter}/replay",
    tags=["Watch"],
    status_code=202,
    dependencies=[Depends(require_scope(Scope.OPERATE))],
    responses={
        409: {"description": "The request is queued or completed already."},
        410: {"description": "Its upload is gone, or its deadline has passed."},
    },
    summary="Replay a dead letter",
)
async def replay(letter: str, state: State) -> dict[str, Any]:
    """Queues the request again as it was."""
    found = await state.backend.dead.find(letter)
    if found is None:
        raise ApiError(404, "not_found", f"there is no dead letter {letter!r:.80} (any more)")
    result = await state.backend.dead.replay(found)
    if result.result is Replay.QUEUED:
        return {"id": found.id, "entry": result.detail}
    raise ApiError(_REPLAY_STATUS[result.result], result.result.value, result.sentence)
