"""Waiting for a condition, with a deadline: tests never sleep for a time they hope is enough."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, overload

__all__ = ["wait_until", "wait_until_sync"]

T = TypeVar("T")
_POLL = 0.01


@overload
async def wait_until(
    condition: Callable[[], Awaitable[T]], *, timeout: float = 20.0, what: str = ""
) -> T: ...


@overload
async def wait_until(condition: Callable[[], T], *, timeout: float = 20.0, what: str = "") -> T: ...


async def wait_until(condition: Callable[[], Any], *, timeout: float = 20.0, what: str = "") -> Any:
    """The first true value of `condition`, a function or a coroutine function.

    `AssertionError` names `what` was waited for, and the last value, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        value = await answer if inspect.isawaitable(answer) else answer
        if value:
            return value
        _check(deadline, timeout, what or repr(condition), value)
        await asyncio.sleep(_POLL)


def wait_until_sync(condition: Callable[[], T], *, timeout: float = 20.0, what: str = "") -> T:
    """The same for tests without an event loop."""
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        _check(deadline, timeout, what or repr(condition), value)
        time.sleep(_POLL)
    return value


def _check(deadline: float, timeout: float, what: str, value: object) -> None:
    if time.monotonic() > deadline:
        raise AssertionError(f"not within {timeout} s: {what} (last value: {value!r})")
