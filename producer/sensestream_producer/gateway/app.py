"""The application: routes, and what holds for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sensestream_common import __version__
from sensestream_common.contract.errors import SensestreamError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware

from sensestream_producer.gateway.auth import ApiKey
from sensestream_producer.gateway.backend import Pipeline
from sensestream_producer.gateway.dependencies import AppState
from sensestream_producer.gateway.errors import ApiError, refusal_of, response_of
from sensestream_producer.gateway.outcome_notifier import OutcomeNotifier
from sensestream_producer.gateway.routes import (
    events as live,
    jobs,
    openai as openai_routes,
    operations as watch,
    page,
    tutorial,
)
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.uploads.stores import open_store, sweep
from sensestream_producer.gateway.webhooks.sender import WebhookSender

__all__ = ["create_app"]

log = structlog.get_logger("sensestream.gateway")


def create_app(settings: GatewaySettings, samples: Sequence[Path] = ()) -> FastAPI:
    """An application that opens its connections when it starts, and closes them when it ends.

    The page offers `samples` to try it with. Raises `SettingsError` where uploads cannot be kept.
    """
    store = open_store(settings.uploads)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        pipeline = Pipeline(settings, store)
        here = app.state.surroundings = AppState(
            settings=settings,
            pipeline=pipeline,
            bell=OutcomeNotifier(pipeline.link, pipeline.keys, settings.max_subscribers),
            keys=tuple(map(ApiKey.parse, settings.api_keys)),
            samples={path.name: path for path in samples},
            places=asyncio.Semaphore(settings.max_uploads),
        )
        tasks = _background(here)
        try:
            yield
        finally:
            here.stopping.set()
            await asyncio.gather(*tasks)
            await here.bell.close()
            await pipeline.close()

    app = FastAPI(
        title="Sensestream",
        version=__version__,
        description="Speech transcription with a durable queue behind it.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    for routes in (openai_routes, jobs, live, watch, tutorial, page):
        app.include_router(routes.router)
    page.mount_files(app)
    _describe(app)
    _answer_errors(app)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "X-API-Key"],
            expose_headers=["Location", "Retry-After", "X-Request-Id", "X-Sensestream-Cache"],
        )
    return app


def _describe(app: FastAPI) -> None:
    """Add to the document what no route's signature names: a body that is read as it comes."""
    document = app.openapi()
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["JobRequest"] = jobs.JobRequest.model_json_schema()


def _background(here: AppState) -> list[asyncio.Task[None]]:
    """What goes on beside the calls, until the gateway stops."""
    pipeline, stopping = here.pipeline, here.stopping
    tasks = []
    if here.settings.webhook_secret:
        sender = WebhookSender(
            here.settings, pipeline.link, pipeline.keys, stopping, pipeline.present
        )
        tasks.append(asyncio.create_task(sender.run(), name="gateway-webhooks"))
    if pipeline.store is not None:
        work = sweep(pipeline.store, pipeline.link, pipeline.keys, stopping)
        tasks.append(asyncio.create_task(work, name="gateway-uploads"))
    return tasks


def _answer_errors(app: FastAPI) -> None:
    """Every error in the shape that the clients of its route expect."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return response_of(request.url.path, error)

    @app.exception_handler(SensestreamError)
    async def failed(request: Request, error: SensestreamError) -> Response:
        return response_of(request.url.path, refusal_of(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return response_of(request.url.path, _invalid(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return response_of(request.url.path, _plain(request, error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        log.error("request_internal_error", path=request.url.path, exc_info=error)
        message = "this service failed on it; its operator's log tells more"
        return response_of(request.url.path, ApiError(500, "internal", message))


def _invalid(error: RequestValidationError) -> ApiError:
    """One sentence about the first value that is wrong."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return ApiError(422, "bad_request", f"{where}: {first['msg']}", param=where)


def _plain(request: Request, error: HTTPException) -> ApiError:
    status = error.status_code
    phrase = HTTPStatus(status).phrase
    message = str(error.detail)
    if status == HTTPStatus.NOT_FOUND and message == phrase:
        message = f"there is nothing at {request.url.path!r:.200}: see /docs"
    if status == HTTPStatus.METHOD_NOT_ALLOWED and message == phrase:
        message = f"{request.method} is not taken at {request.url.path!r:.200}: see /docs"
    code = phrase.lower().replace(" ", "_")
    return ApiError(status, code, message, headers=dict(error.headers or {}))
