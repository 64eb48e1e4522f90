"""A real worker process that now and then kills itself with SIGKILL at a named step.

Run as a program with the worker's settings in the environment and

    CHAOS_STEP      one of STEPS
    CHAOS_CHANCE    how likely each passage of that step is the last, 0 to 1
    CHAOS_SEED      makes it repeatable

Everything else is the worker that users run. A step cannot be hit from outside: between the commit
being sent and its reply being read there are microseconds.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from typing import Any, NoReturn

from sensestream_common.connections.connection import connect_blocking
from sensestream_common.logs import configure_logs
from sensestream_common.settings import load_settings
from sensestream_consumer.audio import Fetcher
from sensestream_consumer.broker import outbox
from sensestream_consumer.broker.broker import Broker
from sensestream_consumer.broker.inbox import Inbox
from sensestream_consumer.cli import run_until_stopped
from sensestream_consumer.engine import Recogniser, resolve_model
from sensestream_consumer.settings import WorkerSettings

STEPS = ("after-read", "while-fetching", "in-engine", "before-commit", "after-commit-sent")


class Fate:
    """Decides, by a seed, which passage of a step is the last."""

    def __init__(self, chance: float, seed: str) -> None:
        self._random = random.Random(seed)
        self._chance = chance

    def falls(self) -> bool:
        return self._random.random() < self._chance


def die() -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable: SIGKILL cannot be survived")


def after(owner: type, name: str, fate: Fate) -> None:
    """Die after a method of `owner` has returned something."""
    method: Callable[..., Any] = getattr(owner, name)

    async def wrapped(*args: Any, **kwargs: Any) -> Any:
        result = await method(*args, **kwargs)
        if result and fate.falls():
            die()
        return result

    setattr(owner, name, wrapped)


def before(owner: type, name: str, fate: Fate) -> None:
    method: Callable[..., Any] = getattr(owner, name)

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if fate.falls():
            die()
        return method(*args, **kwargs)

    setattr(owner, name, wrapped)


def after_commit_sent(url: str, fate: Fate) -> None:
    """Send a commit on a connection of its own, and die without reading the reply."""
    run = Broker.run
    commit = outbox._COMMIT

    async def wrapped(self: Broker, script: Any, keys: list[str], args: list[Any]) -> Any:
        if script is commit and fate.falls():
            connection = connect_blocking(url, name="chaos", timeout=5).connection_pool
            sender: Any = connection.get_connection()
            sender.send_command("EVAL", commit.source, len(keys), *keys, *args)
            die()
        return await run(self, script, keys, args)

    Broker.run = wrapped  # type: ignore[method-assign]


def main() -> None:
    configure_logs("info")
    settings = load_settings(WorkerSettings)
    step, chance = os.environ["CHAOS_STEP"], float(os.environ["CHAOS_CHANCE"])
    fate = Fate(chance, os.environ["CHAOS_SEED"])
    match step:
        case "after-read":
            after(Inbox, "read", fate)
            after(Inbox, "wait", fate)
        case "while-fetching":
            before(Fetcher, "fetch", fate)
        case "in-engine":
            before(Recogniser, "recognise", fate)
        case "before-commit":
            before(outbox.Outbox, "_send", fate)
        case "after-commit-sent":
            after_commit_sent(settings.redis_url, fate)
        case _:
            raise SystemExit(f"CHAOS_STEP={step}: one of {', '.join(STEPS)}")
    recogniser = Recogniser.load(resolve_model("demo", allow_download=False), device="cpu")
    run_until_stopped(settings, lambda: recogniser)


if __name__ == "__main__":
    main()
