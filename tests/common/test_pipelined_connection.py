"""The connection that a client's scripts share: replies in order, and faults that stay with it."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Callable
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from redis.asyncio import Redis
from redis.exceptions import (
    ConnectionError as RedisConnectionError,
    ReadOnlyError,
    ResponseError,
    TimeoutError as RedisTimeoutError,
)
from sensestream_common.connections import exchanges
from sensestream_common.connections.connection import connect
from sensestream_common.connections.exchanges import FallbackExchanges, transport_of
from sensestream_common.connections.pipelined_connection import (
    PipelinedConnection,
    encode_args,
    pack,
)
from sensestream_common.connections.scripts import Script
from sensestream_producer.local.redis_server import EmbeddedRedis

from tests.support.certificate import CERTIFICATE

pytestmark = pytest.mark.anyio

WAIT = pack("BLPOP", "nothing", "10")  # holds up this connection, and no other


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Redis]:
    async with connect(redis_url, name="test") as redis:
        yield redis


@pytest.fixture(params=["transport", "fallback"])
def reading(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How replies are read: from the transport of redis-py, or, where it has none, by redis-py."""
    if request.param == "fallback":
        monkeypatch.setattr(exchanges, "transport_of", lambda _: None)
    return str(request.param)


@pytest.fixture
async def line(redis_url: str, reading: str) -> AsyncIterator[PipelinedConnection]:
    async with connect(redis_url, name="line") as redis:
        line = PipelinedConnection(redis)
        yield line
        await line.close()


def echo(text: str) -> list[bytes]:
    return [pack("ECHO", text)]


def _under_way(line: PipelinedConnection) -> bool:
    opened = line._exchanges
    if isinstance(opened, FallbackExchanges):
        return opened._turn.locked()
    return opened is not None and bool(opened._pending)


async def waiting(line: PipelinedConnection) -> asyncio.Task[list[object]]:
    """A question that Redis has, and does not answer yet."""
    asked = asyncio.create_task(line.execute([WAIT]))
    while not _under_way(line):  # noqa: ASYNC110  (of the next loop's turns)
        await asyncio.sleep(0)
    return asked


async def identity(line: PipelinedConnection) -> object:
    [identity] = await line.execute([pack("CLIENT", "ID")])
    return identity


async def test_each_has_its_own_replies(line: PipelinedConnection) -> None:
    texts = [str(n) for n in range(200)]
    replies = await asyncio.gather(*(line.execute([*echo(text), *echo("+")]) for text in texts))
    assert replies == [[text.encode(), b"+"] for text in texts]


@pytest.mark.parametrize("missing", ["", "set_protocol", "writelines"])
async def test_a_transport_is_known_by_its_methods(missing: str) -> None:
    """Those of uvloop are no subclasses of asyncio's."""
    names = {"abort", "get_protocol", "is_closing", "set_protocol", "writelines"} - {missing}
    transport = SimpleNamespace(**dict.fromkeys(names))
    connection = SimpleNamespace(_writer=SimpleNamespace(transport=transport))
    found: object = transport_of(connection)
    assert found is (None if missing else transport)


@pytest.mark.parametrize("connection", [SimpleNamespace(), SimpleNamespace(_writer=None)])
async def test_a_connection_without_a_transport_has_the_fallback(
    connection: SimpleNamespace,
) -> None:
    assert transport_of(connection) is None


async def test_a_refusal_is_an_element_and_spoils_no_other(line: PipelinedConnection) -> None:
    replies = await line.execute([*echo("a"), pack("NOTHING"), *echo("b")])
    assert replies[::2] == [b"a", b"b"]
    assert isinstance(replies[1], ResponseError)


async def test_a_cancelled_exchange_leaves_the_others_their_replies(
    line: PipelinedConnection, redis: Redis
) -> None:
    first = await waiting(line)
    second = asyncio.create_task(line.execute(echo("mine")))
    first.cancel()
    await asyncio.wait([first])
    await redis.lpush("nothing", "now")
    assert await second == [b"mine"]


async def test_a_lost_connection_fails_only_the_exchanges_under_way(
    line: PipelinedConnection, redis: Redis
) -> None:
    before = await identity(line)
    asked = [await waiting(line), asyncio.create_task(line.execute(echo("never")))]
    await redis.client_kill_filter(_id=str(before))
    for each in asked:
        with pytest.raises(RedisConnectionError):
            await each
    assert await line.execute(echo("again")) == [b"again"]
    assert await identity(line) != before


async def test_a_connection_that_idled_away_is_replaced(
    line: PipelinedConnection, redis: Redis
) -> None:
    before = await identity(line)
    assert line._exchanges is not None
    await redis.client_kill_filter(_id=str(before))
    if isinstance(line._exchanges, FallbackExchanges):
        with pytest.raises(RedisConnectionError):  # only a command notices
            await line.execute(echo("lost"))
    else:
        async with asyncio.timeout(5):
            while not line._exchanges.broken:  # noqa: ASYNC110  (until the loop has noticed)
                await asyncio.sleep(0.01)
    assert await line.execute(echo("a")) == [b"a"]


async def test_a_reply_that_does_not_come_is_given_up(redis_url: str, reading: str) -> None:
    async with connect(redis_url, name="line") as redis:
        redis.connection_pool.connection_kwargs["socket_timeout"] = 0.2
        line = PipelinedConnection(redis)
        before = await identity(line)
        with pytest.raises(RedisTimeoutError):
            await line.execute([WAIT])
        assert await identity(line) != before  # its reply may come yet, and is nobody's
        await line.close()


async def test_after_a_failover_the_master_is_looked_for_anew(line: PipelinedConnection) -> None:
    before = await identity(line)
    refusal = pack("EVAL", "return redis.error_reply('READONLY a replica')", "0")
    [reply] = await line.execute([refusal])
    assert isinstance(reply, ReadOnlyError)
    assert await identity(line) != before


async def test_a_script_is_loaded_where_redis_does_not_know_it(
    line: PipelinedConnection, redis: Redis
) -> None:
    script = Script("sum", "return ARGV[1] + #KEYS")
    assert await line.run_script(script, [encode_args("k")], [encode_args(41)]) == 42
    await redis.script_flush()
    assert await line.run_script(script, [encode_args("k")], [encode_args(41)]) == 42
    with pytest.raises(ResponseError, match="broken"):
        await line.run_script(Script("broken", "return redis.error_reply('ERR broken')"), [], [])


async def test_the_connection_goes_back_to_its_pool(redis_url: str, reading: str) -> None:
    async with connect(redis_url, name="line", connections=1) as redis:
        line = PipelinedConnection(redis)
        await line.execute(echo("a"))
        asked = await waiting(line)
        await line.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            await asked
        assert await redis.ping()  # there is but one connection
        assert await line.execute(echo("later")) == [b"later"]
        await line.close()


async def test_the_connection_goes_back_even_where_close_is_cancelled(
    redis_url: str, reading: str
) -> None:
    async with connect(redis_url, name="line", connections=1) as redis:
        line = PipelinedConnection(redis)
        await line.execute(echo("a"))
        closing = asyncio.create_task(line.close())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing])
        assert await asyncio.wait_for(redis.ping(), 5)


async def test_a_connection_that_opens_during_close_goes_back(redis_url: str, reading: str) -> None:
    async with connect(redis_url, name="line", connections=1) as redis:
        line = PipelinedConnection(redis)
        asked = asyncio.create_task(line.execute(echo("a")))
        await asyncio.sleep(0)  # it connects
        await line.close()
        with pytest.raises(RedisConnectionError, match="closed"):
            await asked
        assert await asyncio.wait_for(redis.ping(), 5)


@pytest.fixture
async def over_tls(redis_url: str) -> AsyncIterator[str]:
    """The address of a TLS server before a Redis that may know none."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(CERTIFICATE)
    path = urlsplit(redis_url).path

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while content := await reader.read(1 << 20):
            writer.write(content)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(pass_on(reader, inner_writer), pass_on(inner_reader, writer))

    async with await asyncio.start_server(serve, "localhost", ssl=tls) as server:
        port = server.sockets[0].getsockname()[1]
        yield f"rediss://localhost:{port}/0?ssl_ca_certs={CERTIFICATE}"


@pytest.mark.parametrize("size", [10, 20_000, 1_000_000])
async def test_replies_come_whole_over_tls(over_tls: str, size: int, reading: str) -> None:
    """TLS hands over a record of 16 KB at a time, and several of them at once."""
    async with connect(over_tls, name="line") as redis:
        line = PipelinedConnection(redis)
        texts = [bytes([97 + n]) * size for n in range(3)]
        replies = await asyncio.gather(*(line.execute([pack("ECHO", text)]) for text in texts))
        assert replies == [[text] for text in texts]
        await line.close()


@pytest.mark.parametrize("size", [10, 3_000_000])
async def test_a_redis_that_reads_nothing_is_given_up(
    own_redis: Callable[..., EmbeddedRedis], size: int
) -> None:
    """What the socket has no room for is waited for as long as a reply is, and no longer."""
    server = own_redis()
    async with connect(server.url, name="line") as redis:
        redis.connection_pool.connection_kwargs["socket_timeout"] = 0.5
        line = PipelinedConnection(redis)
        await line.execute(echo("a"))
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises((RedisTimeoutError, RedisConnectionError)):
                await asyncio.wait_for(line.execute(echo("x" * size)), 10)
            await asyncio.wait_for(line.close(), 10)
        finally:
            os.kill(server.pid, signal.SIGCONT)


@pytest.mark.parametrize("turns", [1, 2, 3])
async def test_a_dead_connection_is_not_opened_anew_under_its_reader(
    own_redis: Callable[..., EmbeddedRedis], turns: int, reading: str
) -> None:
    """Its pool would get it back with a reply outstanding, and the next one there would have it."""
    server = own_redis()
    with server.client() as admin:
        async with connect(server.url, name="line") as redis:
            line = PipelinedConnection(redis)
            number = await identity(line)
            admin.execute_command("CLIENT", "KILL", "ID", str(number))
            time.sleep(0.05)  # noqa: ASYNC251  (the loop is held up: nobody has noticed)

            async def late(turns: int) -> None:
                for _ in range(turns):
                    await asyncio.sleep(0)
                await line.execute([WAIT])

            tasks = [asyncio.create_task(late(n)) for n in range(turns + 1)]
            await asyncio.wait(tasks, timeout=0.2)
            asked = asyncio.ensure_future(redis.echo("mine"))
            await asyncio.sleep(0.1)
            admin.lpush("nothing", *["anothers"] * len(tasks))
            assert await asked == b"mine"
            await asyncio.wait(tasks, timeout=5)
            errors = [task.exception() for task in tasks]
            assert all(error is None or type(error) is RedisConnectionError for error in errors)
            await line.close()
