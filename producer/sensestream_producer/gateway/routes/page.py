"""The page at / and the documentation at /docs, with static files of this package only."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope as Connection

from sensestream_producer.gateway.auth import Scope
from sensestream_producer.gateway.dependencies import State, require_scope
from sensestream_producer.gateway.errors import ApiError

__all__ = ["mount_files", "router"]

_FOLDER = Path(__file__).parents[1] / "static"
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; media-src 'self' blob:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(self)",
    "Cache-Control": "no-cache",
}

router = APIRouter(include_in_schema=False)


@router.get("/")
async def index() -> FileResponse:
    """The page."""
    return FileResponse(_FOLDER / "index.html", headers=_HEADERS)


@router.get("/docs")
async def docs() -> FileResponse:
    """The documentation of the routes."""
    return FileResponse(_FOLDER / "docs.html", headers=_HEADERS)


@router.get("/samples", dependencies=[Depends(require_scope(Scope.SUBMIT))])
async def samples(state: State) -> list[str]:
    """The names of the sample recordings; `sensestream demo` has some."""
    return list(state.samples)


@router.get("/samples/{name}", dependencies=[Depends(require_scope(Scope.SUBMIT))])
async def sample(name: str, state: State) -> FileResponse:
    """A sample recording."""
    if name not in state.samples:
        raise ApiError(404, "not_found", f"there is no sample {name!r:.80}")
    return FileResponse(state.samples[name])


class _StaticFiles(StaticFiles):
    """Static files that browsers revalidate, so that no old script survives an upgrade."""

    async def get_response(self, path: str, scope: Connection) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response


def mount_files(app: FastAPI) -> None:
    """Serve the static files below /static."""
    app.mount("/static", _StaticFiles(directory=_FOLDER))
