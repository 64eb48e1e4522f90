"""`http://` and `https://`: what a site may do to a worker, and what not."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import logging
import ssl
import time
import tracemalloc
import zlib
from ipaddress import ip_address
from typing import Any

import pytest
from redis.asyncio import Redis
from sensestream_common.addresses import is_public
from sensestream_common.contract.errors import ErrorCode, RequestError, TransientError
from sensestream_consumer.audio import AudioPolicy, Fetched, Fetcher, parse_reference
from sensestream_consumer.audio.sources.web import Web, trusted

from tests.support.certificate import CERTIFICATE

from .conftest import UPLOADS
from .site import Site, answer

pytestmark = pytest.mark.anyio


async def fetch(
    uri: str, *, private: bool = True, tls: ssl.SSLContext | None = None, **limits: Any
) -> Fetched:
    web = Web(AudioPolicy(roots=(), allow_private_hosts=private, **limits), tls=tls)
    try:
        return await web.open(parse_reference(uri))
    finally:
        await web.aclose()


async def refusal(uri: str, **limits: Any) -> RequestError:
    with pytest.raises(RequestError) as caught:
        (await fetch(uri, **limits)).close()
    return caught.value


async def test_a_page_is_copied_and_hashed(site: Site) -> None:
    data = bytes(range(256)) * 8192
    site.pages["/a%20b.wav"] = answer(data, Content_Type="Audio/WAV; charset=x")
    with await fetch(site.url("/a%20b.wav")) as fetched:
        assert fetched.digest == "sha256:" + hashlib.sha256(data).hexdigest()
        assert fetched.media_type == "audio/wav"
        assert fetched.file.read() == data


async def test_the_query_and_the_user_reach_the_site_and_nothing_is_compressed(site: Site) -> None:
    site.pages["/a"] = answer(b"sound")
    url = site.url("/a?token=t%2F1#part").replace("//", "//user:p%40ss@")
    with await fetch(url):
        request = site.requests[0]
    assert request.startswith("GET /a?token=t%2F1 HTTP/1.1\r\n")
    assert f"Host: 127.0.0.1:{site.port}\r\n" in request
    assert "Authorization: Basic dXNlcjpwQHNz\r\n" in request
    assert "Accept-Encoding: identity\r\n" in request


async def test_an_answer_without_a_length_is_read_to_its_end(site: Site) -> None:
    site.pages["/close"] = answer(b"sound", length=-1)
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nsound\r\n0\r\n\r\n"
    site.pages["/chunked"] = chunked
    for path in ("/close", "/chunked"):
        with await fetch(site.url(path)) as fetched:
            assert fetched.file.read() == b"sound"


async def test_a_site_with_a_name_is_asked_by_its_name_at_the_address_looked_up(site: Site) -> None:
    looked_up = []

    async def resolve(host: str, port: int) -> list[str]:
        looked_up.append((host, port))
        return ["127.0.0.1"]

    site.pages["/a"] = answer(b"sound")
    web = Web(AudioPolicy(roots=(), allow_private_hosts=True), resolve)
    with await web.open(parse_reference(f"http://audio.example:{site.port}/a")) as fetched:
        assert fetched.size == 5
    await web.aclose()
    assert looked_up == [("audio.example", site.port)]
    assert f"Host: audio.example:{site.port}\r\n" in site.requests[0]


def secure_site() -> Site:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(CERTIFICATE)
    return Site(server)


async def test_https_verifies_the_authority_and_the_name() -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with secure_site() as site:
        site.pages["/a"] = answer(b"sound")
        with await fetch(site.url("/a", "localhost"), tls=trusting) as fetched:
            assert fetched.size == 5
        for error in (
            await refusal(site.url("/a", "localhost")),
            await refusal(site.url("/a", "127.0.0.1"), tls=trusting),
        ):
            assert error.code is ErrorCode.AUDIO_UNAVAILABLE
            assert not isinstance(error, TransientError)
            assert "certificate is not trusted" in error.message


def test_a_companys_own_authority_is_trusted_by_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    count = len(trusted.__wrapped__().get_ca_certs())
    assert count > 50
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    names = str(trusted.__wrapped__().get_ca_certs())
    assert "localhost" in names


@pytest.mark.parametrize(
    ("status", "code", "transient"),
    [
        ("404 Not Found", ErrorCode.AUDIO_NOT_FOUND, False),
        ("410 Gone", ErrorCode.AUDIO_NOT_FOUND, False),
        ("401 Unauthorized", ErrorCode.AUDIO_FORBIDDEN, False),
        ("403 Forbidden", ErrorCode.AUDIO_FORBIDDEN, False),
        ("400 Bad Request", ErrorCode.AUDIO_UNAVAILABLE, False),
        ("418 Teapot", ErrorCode.AUDIO_UNAVAILABLE, False),
        ("304 Not Modified", ErrorCode.AUDIO_UNAVAILABLE, False),
        ("408 Request Timeout", ErrorCode.AUDIO_UNAVAILABLE, True),
        ("425 Too Early", ErrorCode.AUDIO_UNAVAILABLE, True),
        ("429 Too Many Requests", ErrorCode.AUDIO_UNAVAILABLE, True),
        ("500 Internal Server Error", ErrorCode.AUDIO_UNAVAILABLE, True),
        ("503 Service Unavailable", ErrorCode.AUDIO_UNAVAILABLE, True),
        ("599 Whatever", ErrorCode.AUDIO_UNAVAILABLE, True),
    ],
)
async def test_each_status_has_its_error(
    site: Site, status: str, code: ErrorCode, transient: bool
) -> None:
    site.pages["/a"] = answer(b"", status)
    error = await refusal(site.url("/a?token=secret"))
    assert error.code is code
    assert isinstance(error, TransientError) is transient
    assert status[:3] in error.message
    assert "secret" not in error.message


async def test_a_site_that_is_down_may_be_tried_again(site: Site) -> None:
    async def hang_up(writer: asyncio.StreamWriter) -> None:
        writer.transport.abort()

    site.pages["/hangs-up"] = hang_up
    site.pages["/nonsense"] = b"SSH-2.0-OpenSSH\r\n\r\n"
    site.pages["/shorter-than-told"] = answer(b"sound", length=50)
    for url in (
        "http://127.0.0.1:1/a",
        "http://no-such-host.invalid/a",
        site.url("/hangs-up"),
        site.url("/nonsense"),
        site.url("/shorter-than-told"),
    ):
        error = await refusal(url)
        assert isinstance(error, TransientError)
        assert error.code is ErrorCode.AUDIO_UNAVAILABLE


async def test_a_slow_trickle_ends_with_the_time_for_the_whole(site: Site) -> None:
    async def trickle(writer: asyncio.StreamWriter) -> None:
        writer.write(answer(length=1000))
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    async def slow_headers(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nX: ")
        while True:
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.02)

    site.pages.update({"/trickle": trickle, "/headers": slow_headers})
    for path in ("/trickle", "/headers"):
        begun = time.monotonic()
        error = await refusal(site.url(path), fetch_timeout=0.3)
        assert isinstance(error, TransientError)
        assert "0.3 seconds" in error.message
        assert time.monotonic() - begun < 3


async def test_a_body_of_more_bytes_than_allowed_is_refused(site: Site) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(answer(length=-1))
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    site.pages["/told"] = answer(b"x", length=10**9)
    site.pages["/absurd"] = answer(b"x", length=10**19)
    site.pages["/endless"] = endless
    for path in ("/told", "/absurd", "/endless"):
        error = await refusal(site.url(path), max_bytes=1_000_000)
        assert error.code is ErrorCode.AUDIO_TOO_LARGE
        assert "1000000 bytes" in error.message
        assert "SENSESTREAM_MAX_AUDIO_BYTES" in error.message
    assert sent < 32_000_000  # what fits into the buffers of both ends


async def test_more_bytes_than_the_length_told_are_not_believed(site: Site) -> None:
    site.pages["/a"] = answer(b"sound and more", length=5)
    with await fetch(site.url("/a")) as fetched:
        assert fetched.file.read() == b"sound"


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "GZIP"])
async def test_a_compressed_answer_is_expanded(site: Site, encoding: str) -> None:
    data = hashlib.sha256(b"seed").digest() * 100_000  # 3.2 MB, a few kB compressed
    body = (
        zlib.compress(data)
        if encoding == "deflate"
        else gzip.compress(data[:9]) + gzip.compress(data[9:])
    )
    site.pages["/a"] = answer(body, Content_Encoding=encoding)
    with await fetch(site.url("/a")) as fetched:
        assert fetched.digest == "sha256:" + hashlib.sha256(data).hexdigest()


async def test_a_gzip_bomb_is_stopped_at_the_limit_and_in_little_memory(site: Site) -> None:
    bomb = gzip.compress(bytes(64 * 1024 * 1024))
    site.pages["/bomb"] = answer(bomb, Content_Encoding="gzip")
    tracemalloc.start()
    error = await refusal(site.url("/bomb"), max_bytes=2_000_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert error.code is ErrorCode.AUDIO_TOO_LARGE
    assert peak < 16_000_000


async def test_a_compressed_answer_that_expands_to_nothing_without_end_is_stopped(
    site: Site,
) -> None:
    site.pages["/a"] = answer(gzip.compress(b"") * 10_000, Content_Encoding="gzip")
    error = await refusal(site.url("/a"), max_bytes=100_000)
    assert error.code is ErrorCode.AUDIO_TOO_LARGE


@pytest.mark.parametrize(
    ("body", "encoding", "transient"),
    [
        (gzip.compress(b"sound" * 100)[:-9], "gzip", True),
        (b"no gzip at all", "gzip", False),
        (b"sound", "br", False),
        (b"sound", "gzip, gzip", False),
    ],
    ids=["cut short", "no gzip", "brotli", "gzip twice"],  # a gzip stream has the time in it
)
async def test_an_answer_that_cannot_be_expanded_is_unavailable(
    site: Site, body: bytes, encoding: str, transient: bool
) -> None:
    site.pages["/a"] = answer(body, Content_Encoding=encoding)
    error = await refusal(site.url("/a"))
    assert error.code is ErrorCode.AUDIO_UNAVAILABLE
    assert isinstance(error, TransientError) is transient


def redirect(to: str, status: str = "302 Found") -> bytes:
    return answer(b"", status, Location=to)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_followed(site: Site, status: int) -> None:
    site.pages["/a"] = redirect("sub/b?x=1", f"{status} Moved")
    site.pages["/sub/b"] = redirect(site.url("/c"))
    site.pages["/c"] = answer(b"sound")
    with await fetch(site.url("/a"), max_redirects=2) as fetched:
        assert fetched.size == 5
    assert site.requests[1].startswith("GET /sub/b?x=1 ")


async def test_a_password_is_sent_to_the_same_site_only(site: Site) -> None:
    async with Site() as other:
        site.pages["/a"] = redirect("/b")
        site.pages["/b"] = redirect(other.url("/c"))
        other.pages["/c"] = answer(b"sound")
        with await fetch(site.url("/a").replace("//", "//user:pass@")):
            pass
        assert ["Authorization" in request for request in site.requests] == [True, True]
        assert "Authorization" not in other.requests[0]


async def test_too_many_redirects_end(site: Site) -> None:
    site.pages["/a"] = redirect("/a")
    error = await refusal(site.url("/a"), max_redirects=3)
    assert error.code is ErrorCode.AUDIO_UNAVAILABLE
    assert not isinstance(error, TransientError)
    assert "more than 3 times" in error.message
    assert len(site.requests) == 4


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "redis:secret", "data:,a"]
)
async def test_a_redirect_to_another_scheme_is_refused(site: Site, target: str) -> None:
    site.pages["/a"] = redirect(target)
    assert (await refusal(site.url("/a"))).code is ErrorCode.AUDIO_FORBIDDEN


async def test_a_redirect_from_https_to_http_is_refused(site: Site) -> None:
    trusting = ssl.create_default_context(cafile=str(CERTIFICATE))
    async with secure_site() as secure:
        secure.pages["/a"] = redirect(site.url("/a"))
        error = await refusal(secure.url("/a", "localhost"), tls=trusting)
    assert error.code is ErrorCode.AUDIO_FORBIDDEN
    assert site.requests == []


@pytest.mark.parametrize("target", ["", "http://[broken", "http://", "http://host:port/"])
async def test_a_redirect_to_nowhere_is_refused(site: Site, target: str) -> None:
    site.pages["/a"] = redirect(target)
    error = await refusal(site.url("/a"))
    assert error.code in {ErrorCode.AUDIO_UNAVAILABLE, ErrorCode.BAD_REQUEST}


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "localhost",
        "10.1.2.3",
        "169.254.169.254",
        "100.64.0.1",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "224.0.0.1",
        "255.255.255.255",
    ],
)
async def test_an_address_that_is_not_public_is_forbidden_however_it_is_written(
    site: Site, host: str
) -> None:
    site.pages["/a"] = answer(b"secret")
    error = await refusal(site.url("/a", host), private=False)
    assert error.code is ErrorCode.AUDIO_FORBIDDEN
    assert "SENSESTREAM_ALLOW_PRIVATE_HOSTS" in error.message
    assert site.requests == []


async def test_a_name_with_one_private_address_among_its_addresses_is_forbidden(site: Site) -> None:
    async def resolve(host: str, port: int) -> list[str]:
        return ["93.184.216.34", "127.0.0.1"]

    web = Web(AudioPolicy(roots=()), resolve)
    with pytest.raises(RequestError) as caught:
        await web.open(parse_reference(f"http://rebinding.example:{site.port}/a"))
    await web.aclose()
    assert caught.value.code is ErrorCode.AUDIO_FORBIDDEN
    assert site.requests == []


async def test_a_redirect_into_the_private_network_is_checked_like_the_first_address(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first hop must be public, which nothing on this machine is: 127.0.0.1 is taken for it.
    monkeypatch.setattr(
        "sensestream_common.addresses.is_public",
        lambda address: str(address) == "127.0.0.1",
    )
    site.pages["/a"] = redirect(f"http://127.0.0.2:{site.port}/secret")
    site.pages["/secret"] = answer(b"secret")
    error = await refusal(site.url("/a"), private=False)
    assert error.code is ErrorCode.AUDIO_FORBIDDEN
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.127.255.255",
        "127.0.0.1",
        "169.254.169.254",
        "172.31.0.1",
        "192.0.0.1",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.0.1",
        "198.19.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:10.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:a00:1::1",
        "2002:a9fe:a9fe::",
        "3fff::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%2",
        "fec0::1",
        "ff02::1",
    ],
)
async def test_special_addresses_are_not_public(address: str) -> None:
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "100.63.255.255",
        "172.32.0.1",
        "2606:4700::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
    ],
)
async def test_other_addresses_are_public(address: str) -> None:
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    "uri",
    [
        "http://",
        "http:///a",
        "http://host:99999999/",
        "http://ho\nst/",
        "http://" + "a" * 70 + "/",
        "http://a..b/",
        "http:relative",
    ],
)
async def test_a_broken_url_is_a_bad_request(uri: str) -> None:
    error = await refusal(uri)
    assert error.code in {ErrorCode.BAD_REQUEST, ErrorCode.AUDIO_UNAVAILABLE}
    assert "\n" not in error.message


async def test_the_environments_proxies_are_not_asked(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    site.pages["/a"] = answer(b"sound")
    with await fetch(site.url("/a")) as fetched:
        assert fetched.size == 5


async def test_a_cookie_of_one_request_is_not_sent_with_the_next(site: Site) -> None:
    site.pages["/a"] = answer(b"sound", Set_Cookie="session=1")
    web = Web(AudioPolicy(roots=(), allow_private_hosts=True))
    for _ in range(2):
        (await web.open(parse_reference(site.url("/a")))).close()
    await web.aclose()
    assert not any("cookie" in request.lower() for request in site.requests)


async def test_no_log_line_shows_a_password_or_a_query(
    site: Site, nowhere: Redis, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    site.pages["/a"] = redirect("/b?token=swordfish")
    site.pages["/b"] = answer(b"sound")
    policy = AudioPolicy(roots=(), allow_private_hosts=True)
    fetcher = Fetcher(policy, nowhere, UPLOADS)
    url = site.url("/a?token=swordfish").replace("//", "//user:swordfish@")
    (await fetcher.fetch(url)).close()
    with pytest.raises(RequestError) as caught:
        await fetcher.fetch(url.replace("/a?", "/none?"))
    await fetcher.aclose()
    said = caplog.text + "".join(capsys.readouterr()) + caught.value.message
    assert "/none" in said
    assert "swordfish" not in said
    assert "user" not in said


async def test_an_idle_connection_closed_by_the_site_is_no_failure(site: Site) -> None:
    site.pages["/a"] = answer(b"sound").replace(b"Connection: close\r\n", b"")
    web = Web(AudioPolicy(roots=(), allow_private_hosts=True))
    for _ in range(5):
        (await web.open(parse_reference(site.url("/a")))).close()
    await web.aclose()


async def test_a_cancelled_fetch_closes_its_connection(site: Site) -> None:
    asked, closed = asyncio.Event(), asyncio.Event()

    async def wait(writer: asyncio.StreamWriter) -> None:
        asked.set()
        while not writer.transport.is_closing():
            writer.write(b"H")
            await asyncio.sleep(0.005)
        closed.set()

    site.pages["/a"] = wait
    web = Web(AudioPolicy(roots=(), allow_private_hosts=True))
    task = asyncio.create_task(web.open(parse_reference(site.url("/a"))))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        await closed.wait()
    await web.aclose()
