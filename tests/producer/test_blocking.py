"""The blocking client where it differs: threads, interrupts, forks, and ends."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from redis import Redis
from sensestream_common.contract.keys import Keys
from sensestream_producer import (
    RedisUnavailable,
    SensestreamError,
    SettingsError,
    blocking,
    client as asynchronous,
)
from sensestream_producer.operations import dead_letters as letters

from tests.support.background import answered
from tests.support.waiting import wait_until_sync

AUDIO = "file:///data/a.wav"
KEYS = Keys("sensestream")


@pytest.fixture
def client(redis_url: str) -> Iterator[blocking.Client]:
    with blocking.Client(redis_url) as client:
        yield client


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as redis:
        yield redis


def threads() -> int:
    return sum(each.name == "sensestream-client" for each in threading.enumerate())


def run(program: str, url: str, folder: Path) -> str:
    """What a script prints that a user might have written."""
    path = folder / "program.py"
    path.write_text(program)
    # Python 3.12 warns of every fork beside threads; that it is safe here is what is tested.
    forks = "ignore:This process:DeprecationWarning"
    command = [sys.executable, "-W", "error", "-W", forks, str(path), url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return str(done.stdout)


def public(kind: type) -> set[str]:
    return {name for name in vars(kind) if not name.startswith("_")}


def test_it_has_every_verb_of_the_asyncio_client() -> None:
    assert public(blocking.Client) == public(asynchronous.Client)
    assert public(blocking.DeadLetters) == public(letters.DeadLetters)


def test_many_threads_share_one_client_and_its_connections(
    client: blocking.Client, redis: Redis, redis_url: str
) -> None:
    with answered(redis_url, KEYS), ThreadPoolExecutor(16) as pool:
        outcomes = list(pool.map(lambda _: client.transcribe(AUDIO), range(64)))
    assert len({outcome.id for outcome in outcomes}) == 64
    assert threads() == 1
    names = [each["name"] for each in redis.client_list()]
    assert names.count("sensestream-wait") == 1


def test_a_new_client_opens_no_connection_and_starts_no_thread() -> None:
    before = threads()
    client = blocking.Client("redis://127.0.0.1:1/0", retry_timeout=0.1)
    assert threads() == before
    with pytest.raises(RedisUnavailable, match=r"127\.0\.0\.1:1"):
        client.submit(AUDIO)
    client.close()


def test_a_wrong_url_or_name_is_an_error_of_the_constructor() -> None:
    with pytest.raises(SettingsError, match="SENSESTREAM_REDIS_URL"):
        blocking.Client("http://127.0.0.1")
    with pytest.raises(SettingsError, match="SENSESTREAM_PIPELINE"):
        blocking.Client("redis://127.0.0.1", "no spaces")


def connected(redis: Redis) -> set[str]:
    """The ids of all connections that this Redis has."""
    return {str(each["id"]) for each in redis.client_list()}


def test_calls_of_a_closed_client_raise_and_nothing_stays_open(
    redis: Redis, redis_url: str
) -> None:
    before = connected(redis)  # an earlier test's may still be going
    with blocking.Client(redis_url) as client:
        client.submit(AUDIO)
    assert threads() == 0
    with pytest.raises(SensestreamError, match="closed"):
        client.submit(AUDIO)
    with pytest.raises(SensestreamError, match="closed"):
        next(client.follow())
    client.close()
    wait_until_sync(lambda: connected(redis) <= before)


def test_a_client_without_references_is_closed(redis: Redis, redis_url: str) -> None:
    before = connected(redis)
    blocking.Client(redis_url).ping()
    gc.collect()
    wait_until_sync(lambda: threads() == 0)
    wait_until_sync(lambda: connected(redis) <= before)


def test_an_iterator_keeps_the_client_it_came_from(redis_url: str) -> None:
    events = blocking.Client(redis_url).follow("0")
    gc.collect()
    with answered(redis_url, KEYS), blocking.Client(redis_url) as other:
        other.transcribe(AUDIO, id="x")
        with closing(events):
            assert next(events).position


def test_leaving_a_for_loop_closes_its_connection(
    client: blocking.Client, redis: Redis, redis_url: str
) -> None:
    with answered(redis_url, KEYS):
        client.transcribe(AUDIO)
    for _ in client.follow("0"):
        break
    gc.collect()
    wait_until_sync(
        lambda: all(each["name"] != "sensestream-follow" for each in redis.client_list())
    )


def test_closing_the_client_ends_its_iterators_and_waits_in_other_threads(
    client: blocking.Client, redis: Redis
) -> None:
    with ThreadPoolExecutor(3) as pool:
        following = pool.submit(list, client.follow("0"))
        listening = pool.submit(list, client.listen())
        waiting = pool.submit(client.wait, "never", timeout=None)

        def all_there() -> bool:
            names = {each["name"] for each in redis.client_list()}
            return {"sensestream-follow", "sensestream-listen", "sensestream-wait"} <= names

        wait_until_sync(all_there)
        client.close()
        assert following.result(20) == []
        assert listening.result(20) == []
        with pytest.raises(SensestreamError, match="closed"):
            waiting.result(20)


INTERRUPTED = """
import sys, time
from sensestream_producer import blocking

client = blocking.Client(sys.argv[1])
for verb in (
    lambda: client.transcribe("file:///data/a.wav", timeout=None),
    lambda: next(client.follow("0")),
):
    client.ping()
    print("waiting", flush=True)
    try:
        verb()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
print(client.pipeline_status().backlog)
"""


def test_ctrl_c_ends_a_wait_at_once_and_the_client_goes_on(redis_url: str, tmp_path: Path) -> None:
    path = tmp_path / "program.py"
    path.write_text(INTERRUPTED)
    with (
        subprocess.Popen(
            [sys.executable, "-W", "error", path, redis_url],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
        Redis.from_url(redis_url) as redis,
    ):
        assert process.stdout is not None
        assert process.stderr is not None
        for connection in ("sensestream-wait", "sensestream-follow"):
            assert process.stdout.readline() == "waiting\n"

            def reads(name: str = connection) -> bool:
                return any(
                    each["name"] == name and each["cmd"] == "xread" for each in redis.client_list()
                )

            wait_until_sync(reads, what=f"{connection} reads")
            began = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout.readline() == "interrupted\n"
            assert time.monotonic() - began < 1.5  # a blocking read takes two seconds
        assert process.communicate(timeout=20) == ("1\n", "")
        assert process.returncode == 0


def test_ctrl_c_that_comes_just_before_a_wait_ends_it_all_the_same(
    client: blocking.Client, redis: Redis
) -> None:
    def press() -> None:
        wait_until_sync(
            lambda: any(each["name"] == "sensestream-wait" for each in redis.client_list())
        )
        # Another thread takes the signal: as with one that was taken just before, no wait ends.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)

    pressing = threading.Thread(target=press)
    pressing.start()
    with pytest.raises(KeyboardInterrupt):
        client.wait("never")
    pressing.join()


def test_ctrl_c_before_the_loop_has_the_work_leaves_no_coroutine_behind(
    client: blocking.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(asyncio, "run_coroutine_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.ping()
    monkeypatch.undo()
    gc.collect()  # a coroutine that is never awaited warns now, and a warning is an error
    client.ping()


FORKED = """
import os, sys, threading
from sensestream_producer import SensestreamError, blocking

client = blocking.Client(sys.argv[1])
untouched = blocking.Client(sys.argv[1])
closed = blocking.Client(sys.argv[1])
closed.close()
client.submit("file:///parent.wav", id="before")
waiting = threading.Thread(target=lambda: print("parent", client.wait("both").id), name="waiting")
waiting.start()
events = client.follow("0")
print("parent", next(events).outcome.id)
sys.stdout.flush()

child = os.fork()
if child == 0:
    assert client.submit("file:///child.wav", id="before").duplicate
    client.submit("file:///child.wav", id="child")
    untouched.submit("file:///child.wav", id="untouched")
    try:
        closed.ping()
    except SensestreamError as error:
        print("child", *(word for word in ("closed",) if word in str(error)))
    try:
        next(events)
    except SensestreamError as error:
        print("child", *(word for word in ("fork",) if word in str(error)))
    client.close()
    sys.exit(0)  # with all finalisers, unlike os._exit
_, status = os.waitpid(child, 0)
assert status == 0, status
client.submit("file:///parent.wav", id="both")
waiting.join()
print("parent", client.pipeline_status().backlog)
print("parent", next(events).outcome.id)
client.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forks_child_has_connections_of_its_own_and_leaves_the_parents_alone(
    redis_url: str, tmp_path: Path
) -> None:
    with answered(redis_url, KEYS):
        said = run(FORKED, redis_url, tmp_path).splitlines()
    assert [line for line in said if line.startswith("child")] == ["child closed", "child fork"]
    assert next(line for line in said if line.startswith("parent")) == "parent before"
    assert {"parent both", "parent 0"} <= set(said)
