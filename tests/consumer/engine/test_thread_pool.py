"""The threads that recognise: who is served first, and what a long recording may borrow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest
from sensestream_consumer.engine.thread_pool import ThreadPool, run_sequentially

PATIENCE = 10.0


class Stage:
    """Tasks that say when they began and end when they are let go."""

    def __init__(self) -> None:
        self.began: list[str] = []
        self._gates: dict[str, threading.Event] = {}
        self._changed = threading.Condition()

    def task(self, name: str) -> Callable[[], str]:
        gate = self._gates.setdefault(name, threading.Event())

        def run() -> str:
            with self._changed:
                self.began.append(name)
                self._changed.notify_all()
            assert gate.wait(PATIENCE)
            return name

        return run

    def release(self, *names: str) -> None:
        for name in names:
            self._gates[name].set()

    def await_began(self, *names: str) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: set(names) <= set(self.began), PATIENCE), names

    def end(self) -> None:
        self.release(*self._gates)


@pytest.fixture
def stage() -> Iterator[Stage]:
    stage = Stage()
    yield stage
    stage.end()


def _long(pool: ThreadPool, stage: Stage, name: str, pieces: int) -> Callable[[], list[str]]:
    tasks = [stage.task(f"{name}{number}") for number in range(pieces)]
    return lambda: pool.run_shared(tasks)


def test_idle_threads_help_with_the_pieces_of_a_long_recording(stage: Stage) -> None:
    pool = ThreadPool(3)
    future = pool.submit(_long(pool, stage, "L", 4))
    stage.await_began("L0", "L1", "L2")
    stage.end()
    assert future.result(PATIENCE) == ["L0", "L1", "L2", "L3"]
    pool.close()


def test_results_come_in_order_whichever_piece_ends_first(stage: Stage) -> None:
    pool = ThreadPool(3)
    future = pool.submit(_long(pool, stage, "L", 3))
    stage.await_began("L0", "L1", "L2")
    stage.release("L2")
    stage.release("L1")
    stage.release("L0")
    assert future.result(PATIENCE) == ["L0", "L1", "L2"]
    pool.close()


def test_a_short_recording_goes_before_the_waiting_pieces_of_a_long_one(stage: Stage) -> None:
    pool = ThreadPool(2)
    future = pool.submit(_long(pool, stage, "L", 6))
    stage.await_began("L0", "L1")
    short = [pool.submit(stage.task(name)) for name in ("a", "b")]
    stage.release("L0", "L1")
    # One thread is the long recording's own, the borrowed one comes back for the short ones.
    stage.await_began("L2", "a")
    stage.release("a")
    stage.await_began("b")
    assert "L3" not in stage.began
    stage.end()
    assert [one.result(PATIENCE) for one in short] == ["a", "b"]
    assert future.result(PATIENCE) == [f"L{number}" for number in range(6)]
    pool.close()


def test_short_recordings_without_end_do_not_stop_a_long_one(stage: Stage) -> None:
    pool = ThreadPool(2)
    future = pool.submit(_long(pool, stage, "L", 3))
    stage.await_began("L0", "L1")
    waiting = [pool.submit(stage.task(f"s{number}")) for number in range(20)]
    stage.release("L0", "L1", "L2")
    # Its own thread goes on with it, whoever waits.
    assert future.result(PATIENCE) == ["L0", "L1", "L2"]
    assert not any(one.done() for one in waiting)
    stage.end()
    assert waiting[-1].result(PATIENCE) == "s19"
    pool.close()


def test_two_long_recordings_share_the_threads_and_both_end(stage: Stage) -> None:
    pool = ThreadPool(2)
    first = pool.submit(_long(pool, stage, "A", 3))
    second = pool.submit(_long(pool, stage, "B", 3))
    stage.end()
    assert first.result(PATIENCE) == ["A0", "A1", "A2"]
    assert second.result(PATIENCE) == ["B0", "B1", "B2"]
    pool.close()


def test_the_first_failing_piece_names_the_error_and_no_more_are_started(stage: Stage) -> None:
    pool = ThreadPool(2)

    def fail(name: str) -> Callable[[], str]:
        run = stage.task(name)

        def failing() -> str:
            raise ValueError(run())

        return failing

    tasks = [fail("L0"), fail("L1"), stage.task("L2")]
    future = pool.submit(lambda: pool.run_shared(tasks))
    stage.await_began("L0", "L1")
    stage.release("L1")
    stage.release("L0")
    with pytest.raises(ValueError, match="L0"):
        future.result(PATIENCE)
    assert "L2" not in stage.began
    pool.close()


def test_closing_lets_a_long_recording_end_and_cancels_what_waits(stage: Stage) -> None:
    pool = ThreadPool(1)
    future = pool.submit(_long(pool, stage, "L", 3))
    stage.await_began("L0")
    waiting = pool.submit(stage.task("a"))
    closing = threading.Thread(target=pool.close)
    closing.start()
    stage.end()
    closing.join(PATIENCE)
    assert future.result(0) == ["L0", "L1", "L2"]
    assert waiting.cancelled()
    assert "a" not in stage.began
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(stage.task("b"))


def test_work_cancelled_while_it_waits_is_never_started(stage: Stage) -> None:
    pool = ThreadPool(1)
    running, waiting = pool.submit(stage.task("a")), pool.submit(stage.task("b"))
    stage.await_began("a")
    assert waiting.cancel()
    assert not running.cancel()
    stage.end()
    assert running.result(PATIENCE) == "a"
    pool.close()
    assert stage.began == ["a"]


def test_tasks_in_turn_are_done_in_order_by_one_thread() -> None:
    names: list[int] = []
    tasks = [lambda: names.append(threading.get_ident())] * 3
    run_sequentially(tasks)
    assert names == [threading.get_ident()] * 3
