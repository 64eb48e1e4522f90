"""The routes of the tutorial that this project began as, for existing clients of them."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from sensestream_common.contract.outcome import CacheUse, Outcome

from sensestream_producer.gateway.auth import Scope
from sensestream_producer.gateway.dependencies import State, require_scope
from sensestream_producer.gateway.openapi import TUTORIAL, TUTORIAL_ERRORS
from sensestream_producer.gateway.routes.params import flag, language_of, one_file
from sensestream_producer.gateway.routes.waiting import completed_outcome
from sensestream_producer.submit.submission import Submission

__all__ = ["router"]

router = APIRouter(tags=["Tutorial"], responses=TUTORIAL_ERRORS)


@router.post(
    "/api/transcribe",
    dependencies=[Depends(require_scope(Scope.SUBMIT))],
    openapi_extra=TUTORIAL,
    summary="Transcribe a recording, with SenseVoice's tags",
)
async def transcribe(request: Request, state: State) -> JSONResponse:
    """`data` is the transcript with SenseVoice's tags in front, as the model writes them."""
    async with state.form(request) as form:
        itn = flag("use_itn", form.text("use_itn"), True)
        submission = Submission(audio=b"", language=language_of(form), itn=itn)
        job = await state.backend.submit(submission, one_file(form))
    outcome = await completed_outcome(state, job)
    hit = outcome.cache is CacheUse.HIT
    message = "answered from the cache" if hit else "transcribed"
    content = {"status": "success", "data": _tagged(outcome, itn), "from_cache": hit}
    return JSONResponse({**content, "message": message})


@router.get(
    "/cache/stats",
    dependencies=[Depends(require_scope(Scope.READ))],
    summary="Get statistics of the result cache",
)
async def stats(state: State) -> dict[str, Any]:
    """Size of the result cache and its hits since the pipeline began."""
    found = await state.backend.results.stats()
    return {
        "status": "success",
        "total_keys": found.results,
        "memory_usage": _bytes(found.bytes),
        "hits": found.hits + found.coalesced,
        "misses": found.misses,
        "hit_rate": found.hit_rate or 0.0,
    }


def _tagged(outcome: Outcome, itn: bool) -> str:
    tags = [
        outcome.language or "nospeech",
        outcome.emotion or "EMO_UNKNOWN",
        outcome.events[0] if outcome.events else "Event_UNK",
        "withitn" if itn else "woitn",
    ]
    return "".join(f"<|{tag}|>" for tag in tags) + outcome.text


def _bytes(count: int) -> str:
    """A size as Redis writes it, such as 1.50M."""
    size = float(count)
    for unit in ("B", "K", "M", "G"):
        if size < 1024 or unit == "G":
            return f"{count}B" if unit == "B" else f"{size:.2f}{unit}"
        size /= 1024
    raise AssertionError
