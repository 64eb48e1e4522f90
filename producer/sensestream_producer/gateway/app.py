"""The FastAPI application: routes, background tasks, CORS and the handlers of errors."""

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
from sensestream_producer.gateway.backend import Backend
from sensestream_producer.gateway.dependencies import AppState
from sensestream_producer.gateway.errors import ApiError, error_response, to_api_error
from sensestream_producer.gateway.outcome_notifier import OutcomeNotifier
from sensestream_producer.gateway.routes import events, jobs, openai, operations, page, tutorial
from sensestream_producer.gateway.routes.job_request import JobRequest
from sensestream_producer.gateway.settings import GatewaySettings
from sensestream_producer.gateway.uploads.stores import Store, open_store, sweep
from sensestream_producer.gateway.webhooks.sender import WebhookSender

__all__ = ["create_app"]

log = structlog.get_logger("sensestream.gateway")


def create_app(settings: GatewaySettings, samples: Sequence[Path] = ()) -> FastAPI:
    """An application that connects to the pipeline when it starts, and disconnects when it ends.

    The page offers `samples`, which are audio files, to try it with. Raises `SettingsError` when
    the place that `settings.uploads` names cannot be used.
    """
    store = open_store(settings.uploads)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running(settings, store, samples) as state:
            app.state.gateway = state
            yield

    app = FastAPI(
        title="Sensestream",
        version=__version__,
        description="Speech transcription with a durable queue behind it.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    for routes in (openai, jobs, events, operations, tutorial, page):
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


@asynccontextmanager
async def _running(
    settings: GatewaySettings, store: Store | None, samples: Sequence[Path]
) -> AsyncIterator[AppState]:
    """The connected components of a gateway, with its background tasks."""
    backend = Backend(settings, store)
    state = AppState(
        settings=settings,
        backend=backend,
        notifier=OutcomeNotifier(backend.link, backend.keys, settings.max_subscribers),
        keys=tuple(map(ApiKey.parse, settings.api_keys)),
        samples={path.name: path for path in samples},
        upload_slots=asyncio.Semaphore(settings.max_uploads),
    )
    tasks = _background(state)
    try:
        yield state
    finally:
        state.stopping.set()
        await asyncio.gather(*tasks)
        await state.notifier.close()
        await backend.close()


def _describe(app: FastAPI) -> None:
    """Add the schema of a job to the OpenAPI document: its route reads the body by itself."""
    document = app.openapi()
    components = document.setdefault("components", {})
    components.setdefault("schemas", {})["JobRequest"] = JobRequest.model_json_schema()


def _background(state: AppState) -> list[asyncio.Task[None]]:
    """Start the tasks that run until the gateway stops: webhooks and removal of uploads."""
    backend, stopping = state.backend, state.stopping
    tasks = []
    if state.settings.webhook_secret:
        sender = WebhookSender(state.settings, backend, stopping)
        tasks.append(asyncio.create_task(sender.run(), name="gateway-webhooks"))
    if backend.store is not None:
        work = sweep(backend.store, backend.link, backend.keys, stopping)
        tasks.append(asyncio.create_task(work, name="gateway-uploads"))
    return tasks


def _answer_errors(app: FastAPI) -> None:
    """Answer every error in the shape that the clients of its path expect."""

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error_response(request.url.path, error)

    @app.exception_handler(SensestreamError)
    async def failed(request: Request, error: SensestreamError) -> Response:
        return error_response(request.url.path, to_api_error(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return error_response(request.url.path, _invalid(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        return error_response(request.url.path, _routing_error(request, error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        log.error("request_internal_error", path=request.url.path, exc_info=error)
        message = "the service failed on this call: its operator finds the cause in the log"
        return error_response(request.url.path, ApiError(500, "internal", message))


def _invalid(error: RequestValidationError) -> ApiError:
    """The first invalid value, in one sentence."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return ApiError(422, "bad_request", f"{where}: {first['msg']}", param=where)


def _routing_error(request: Request, error: HTTPException) -> ApiError:
    """An error of Starlette's own, such as an unknown path."""
    status = error.status_code
    phrase = HTTPStatus(status).phrase
    message = str(error.detail)
    if status == HTTPStatus.NOT_FOUND and message == phrase:
        message = f"there is nothing at {request.url.path!r:.200}: see /docs"
    if status == HTTPStatus.METHOD_NOT_ALLOWED and message == phrase:
        message = f"{request.method} is not taken at {request.url.path!r:.200}: see /docs"
    code = phrase.lower().replace(" ", "_")
    return ApiError(status, code, message, headers=dict(error.headers or {}))
