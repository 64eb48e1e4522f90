"""The export of a worker's spans, by OpenTelemetry's own variables. For the entry point alone.

    OTEL_EXPORTER_OTLP_ENDPOINT=http://collector:4318 sensestream-worker …

Nothing is set up unless these variables ask for it, nor where `opentelemetry-instrument` has done
so already.
"""

from __future__ import annotations

import os
import threading
from importlib.metadata import entry_points
from typing import Any

import structlog
from sensestream_common.contract.errors import SettingsError

__all__ = ["start_exporting", "stop_exporting"]

log = structlog.get_logger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_FLUSH_TIMEOUT = 3.0  # seconds for the last spans; a collector that is away holds up no drain


def start_exporting() -> None:
    """Send spans where the environment says; `SettingsError` for an exporter that is not there."""
    names = _exporters()
    if not names:
        return
    try:
        from opentelemetry import trace
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        log.warning("no_traces", fix="install the extra [otel], or unset OTEL_TRACES_EXPORTER")
        return
    if isinstance(trace.get_tracer_provider(), TracerProvider):
        return
    os.environ.setdefault("OTEL_SERVICE_NAME", "sensestream-worker")
    provider = TracerProvider(shutdown_on_exit=False)  # the process does not end by Python's exit
    for name in names:
        provider.add_span_processor(BatchSpanProcessor(_load(name)()))
    trace.set_tracer_provider(provider)


def stop_exporting() -> None:
    """Send the spans that are left."""
    if not _exporters():
        return
    try:
        from opentelemetry import trace
    except ModuleNotFoundError:
        return
    shut_down = getattr(trace.get_tracer_provider(), "shutdown", None)
    if shut_down is not None:
        thread = threading.Thread(target=shut_down, name="last-spans", daemon=True)
        thread.start()
        thread.join(_FLUSH_TIMEOUT)


def _exporters() -> list[str]:
    """The names in OTEL_TRACES_EXPORTER; `otlp` where only an endpoint for it is named."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    default = "otlp" if any(os.environ.get(name) for name in _ENDPOINTS) else ""
    named = os.environ.get("OTEL_TRACES_EXPORTER") or default
    return [name.strip() for name in named.split(",") if name.strip() not in ("", "none")]


def _load(name: str) -> Any:
    found = name
    if name == "otlp":
        protocol = next((os.environ[one] for one in _PROTOCOLS if os.environ.get(one)), "http")
        found = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    for entry in entry_points(group="opentelemetry_traces_exporter", name=found):
        return entry.load()
    raise SettingsError(
        f"OTEL_TRACES_EXPORTER={name!r}: no {found} exporter is installed; the extra [otel] has "
        "otlp over HTTP (OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf) and console"
    )
