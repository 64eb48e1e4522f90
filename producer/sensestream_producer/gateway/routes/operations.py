"""What goes on in the pipeline, for people and for machines that look after it."""

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


@router.get("/health", tags=["Health"], summary="Whether this gateway lives")
async def health() -> dict[str, Any]:
    return {"status": "healthy", "version": __version__}


@router.get("/health/ready", tags=["Health"], summary="Whether it can take requests",
            responses={503: {"description": "It cannot, and why."}})  # fmt: skip
async def ready(here: State) -> JSONResponse:
    """Ready while Redis answers and the gateway is not stopping; workers may come later."""
    if here.stopping.is_set():
        return JSONResponse({"ready": False, "reason": "the gateway is stopping"}, 503)
    try:
        await here.pipeline.ping()
    except SensestreamError:
        return JSONResponse({"ready": False, "reason": "Redis does not answer"}, 503)
    return JSONResponse({"ready": True})


@router.get("/v1/access", tags=["Watch"], summary="Who this gateway takes you for")
async def access(
    here: State, caller: Annotated[Caller, Depends(require_scope(None))]
) -> dict[str, Any]:
    return {"name": caller.name, "scopes": sorted(caller.scopes), "keys": bool(here.keys)}


@router.get("/v1/status", tags=["Watch"], dependencies=[Depends(require_scope(Scope.READ))],
            summary="Backlog, workers and counters")  # fmt: skip
async def status(here: State) -> dict[str, Any]:
    found = (await here.pipeline.pipeline_status()).to_json()
    for worker in found["workers"]:
        worker.pop("pid")
    return found


@router.get("/v1/dead-letters", tags=["Watch"],
            dependencies=[Depends(require_scope(Scope.OPERATE))],
            summary="Requests that were given up on")  # fmt: skip
async def dead_letters(
    here: State, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> dict[str, Any]:
    """The oldest first, without what may be secret in their references."""
    letters: list[dict[str, Any]] = []
    selected = here.pipeline.dead.select()
    async for letter in selected:
        if len(letters) == limit:
            break
        letters.append(letter.to_json(secrets=False))
    await selected.aclose()
    return {"data": letters}


@router.post("/v1/dead-letters/{letter}/replay", tags=["Watch"], status_code=202,
             dependencies=[Depends(require_scope(Scope.OPERATE))],
             responses={409: {"description": "It stands or was answered already."},
                        410: {"description": "Its upload is gone, or its deadline has passed."}},
             summary="Send one again as it was")  # fmt: skip
async def replay(letter: str, here: State) -> dict[str, Any]:
    found = await here.pipeline.dead.find(letter)
    if found is None:
        raise ApiError(404, "not_found", f"there is no dead letter {letter!r:.80} (any more)")
    result = await here.pipeline.dead.replay(found)
    if result.result is Replay.QUEUED:
        return {"id": found.id, "entry": result.detail}
    raise ApiError(_REPLAY_STATUS[result.result], result.result.value, result.sentence)
