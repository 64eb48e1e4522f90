"""Logging for entry points: pretty at a terminal, one JSON object a line elsewhere.

Logs go to standard error, so that standard output carries only what a command was asked for.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from json import JSONEncoder
from typing import Any, TextIO, cast

import structlog

__all__ = ["LEVELS", "configure_logs"]


class _Stderr:
    """Standard error, whose reader may be gone and whose disk may be full: that ends no process."""

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Nothing: each write ends a line, and standard error is flushed at each by itself."""


# Made once: `json.dumps` makes one for each line when it is given any of these settings.
_encode = JSONEncoder(ensure_ascii=False, default=repr).encode


def _serialised(event: Any, **_: Any) -> str:
    return _encode(event)


LEVELS = ("debug", "info", "warning", "error")


def configure_logs(level: str = "info", *, json: bool | None = None) -> None:
    """Configure structlog for this process; `json=None` decides by whether stderr is a terminal."""
    terminal = sys.stderr.isatty()
    as_json = not terminal if json is None else json
    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer(_serialised)
        if as_json
        else structlog.dev.ConsoleRenderer(colors=terminal)
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            *([structlog.processors.format_exc_info] if as_json else []),
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=False,
    )
