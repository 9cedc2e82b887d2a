"""What a client says when it does not get through: one error for each case, soon, and no storm of retries."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from aiohttp import ClientSession, CookieJar, TCPConnector, web
from yarl import URL

import keepalive
from keepalive import (
    ConnectError,
    NotKeepaliveError,
    OriginError,
    ServerUnavailable,
    SessionEnded,
    SettingError,
    TlsError,
    VersionError,
)
from keepalive.client import link, machine
from keepalive.client.address import address_of
from keepalive.client.link import Link
from keepalive.messages import Wait, encode
from keepalive.testing import VirtualClock

from .conftest import Serve
from .ports import free_port
from .raw import DEADLINE, certified

Speak = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(speak: Speak) -> AsyncIterator[int]:
    """A port where each connection is spoken to like this."""
    speakers = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speakers.append(asyncio.current_task())
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await speak(reader, writer)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for speaker in speakers:
            if speaker is not None:
                speaker.cancel()
                await asyncio.gather(speaker, return_exceptions=True)


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port where each request gets these bytes, and `None` keeps silent; with what has been asked."""
    asked: list[bytes] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        if answer is None:
            await reader.read()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)

    async with listening(speak) as port:
        yield port, asked


def http(status: str, body: str = "", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", body]
    return "\r\n".join(lines).encode()


def methods(asked: list[bytes]) -> list[str]:
    """Of the requests that have come."""
    return [line.split()[0].decode() for line in asked]


async def refused(url: str, **options: object) -> ConnectError:
    """The error that entering raises, within the time that an entry has."""
    async with asyncio.timeout(DEADLINE):
        with pytest.raises(ConnectError) as caught:
            async with keepalive.connect(url, **({"cookies": {}} | options)):  # type: ignore[arg-type]
                raise AssertionError("entered")
    error = caught.value
    assert error.solution, "it says what to do"
    return error


async def test_no_server() -> None:
    port = free_port()
    error = await refused(f"http://ann:secret@127.0.0.1:{port}")
    assert type(error) is ServerUnavailable
    assert error.problem == f"nobody answers at http://127.0.0.1:{port}", "without the password"


async def test_a_server_that_takes_the_connection_and_keeps_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "GREETING", 0.2)
    monkeypatch.setattr(link, "POST_TIMEOUT", 0.2)
    async with answering(None) as (port, asked):
        error = await refused(f"http://127.0.0.1:{port}")
        assert type(error) is ServerUnavailable
        assert "has said nothing" in error.problem
        assert methods(asked) == ["GET", "POST"]


async def test_a_server_that_keeps_silent_while_time_stands_still(
    monkeypatch: pytest.MonkeyPatch, clock: VirtualClock
) -> None:
    """How long it has is a matter of the machine's time, as nobody moves the clock meanwhile."""
    await test_a_server_that_takes_the_connection_and_keeps_silent(monkeypatch)
    assert clock.monotonic() == VirtualClock().monotonic()


async def test_a_name_that_does_not_resolve() -> None:
    assert type(await refused("http://nowhere.invalid")) is ServerUnavailable


@pytest.mark.parametrize("status", ["502 Bad Gateway", "503 Service Unavailable", "429 Too Many Requests"])
async def test_a_server_that_cannot_let_anybody_in_now(status: str) -> None:
    async with answering(http(status)) as (port, asked):
        error = await refused(f"http://127.0.0.1:{port}")
        assert type(error) is ServerUnavailable
        assert status[:3] in error.problem
        assert len(asked) <= 2


@pytest.mark.parametrize(
    "answer",
    [
        http("404 Not Found"),
        http("200 OK", "<h1>Hello</h1>"),
        http("302 Found", "", "Location: /login"),
        http("400 Bad Request", "no"),
        http("101 Switching Protocols", "", "Upgrade: websocket", "Sec-WebSocket-Accept: x"),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
    ],
)
async def test_not_our_server(answer: bytes) -> None:
    async with answering(answer) as (port, asked):
        error = await refused(f"http://127.0.0.1:{port}")
        if answer:
            assert type(error) is NotKeepaliveError
            assert f"127.0.0.1:{port}" in error.problem
        else:
            assert type(error) is ServerUnavailable
        assert len(asked) < 25, "aiohttp follows ten redirects, twice"


async def test_another_websocket(serve: Serve) -> None:
    async def echo(request: web.Request) -> web.StreamResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for _ in socket:
            pass
        return socket

    app = web.Application()
    app.router.add_get("/keepalive/ws", echo)
    port = (await serve(app)).port
    error = await refused(f"http://127.0.0.1:{port}")
    assert type(error) is NotKeepaliveError
    assert "another WebSocket" in error.problem


async def test_a_server_of_another_protocol_version() -> None:
    async with answering(http("400 Bad Request", "offer the subprotocol keepalive.v2\n")) as (port, _):
        error = await refused(f"http://127.0.0.1:{port}")
    assert type(error) is VersionError
    assert "keepalive.v2" in error.problem


async def test_a_proxy_that_loses_the_subprotocol_is_no_other_version() -> None:
    async with answering(http("400 Bad Request", "offer the subprotocol keepalive.v1\n")) as (port, _):
        assert type(await refused(f"http://127.0.0.1:{port}")) is NotKeepaliveError


async def both_errors(url: str, cookie: str) -> list[ConnectError]:
    """What a heart and a pool are told, with this header `Cookie`."""
    async with ClientSession(headers={"Cookie": cookie}) as session:
        errors = [await refused(url, session=session, cookies=None)]
    async with keepalive.HeartPool(url) as pool:
        name, _, value = cookie.partition("=")
        pool.add({name: value})
        with pytest.raises(ConnectError) as caught:
            await pool.opened(DEADLINE)
    return [*errors, caught.value]


async def test_a_server_that_does_not_answer_for_this_host(serve: Serve) -> None:
    app = web.Application()
    keepalive.setup(app, "memory://", hosts=["app.example"])
    port = (await serve(app)).port
    for error in await both_errors(f"http://127.0.0.1:{port}", "keepalive=any"):
        assert type(error) is NotKeepaliveError
        assert error.problem == f"the server at http://127.0.0.1:{port} does not answer for this host"
        assert "its setting `hosts`" in error.solution


async def test_two_session_cookies(serve: Serve) -> None:
    """It is our server, and the client can mend it."""
    app = web.Application()
    keepalive.setup(app, "memory://")
    port = (await serve(app)).port
    for error in await both_errors(f"http://127.0.0.1:{port}", "keepalive=one; keepalive=two"):
        assert type(error) is ConnectError
        assert "two session cookies" in error.problem
        assert "clear this site's cookies" in error.solution


async def test_a_server_without_sockets_whose_store_is_away() -> None:
    """It is ours all the same."""

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        wait = encode(Wait(0, retry_in=2.0, why="store")).decode()
        posted = head.startswith(b"POST")
        writer.write(http("503 Service Unavailable", wait) if posted else http("426 Upgrade Required"))

    async with listening(speak) as port:
        error = await refused(f"http://127.0.0.1:{port}")
        assert type(error) is ServerUnavailable
        assert error.problem == f"http://127.0.0.1:{port} cannot let anybody in now (store)"
        async with keepalive.HeartPool(f"http://127.0.0.1:{port}") as pool:
            heart = pool.add({})
            with pytest.raises(ServerUnavailable, match="1 of 1 hearts"):
                await pool.opened(0.3)
            assert heart.error is None, "it goes on trying"


async def test_a_wrong_origin(serve: Serve) -> None:
    app = web.Application()
    keepalive.setup(app, "memory://")
    port = (await serve(app)).port
    async with ClientSession(headers={"Origin": "https://evil.example"}) as session:
        error = await refused(f"http://127.0.0.1:{port}", session=session, cookies=None)
    assert type(error) is OriginError
    assert "origins" in error.solution


async def test_a_certificate_that_nobody_trusts(serve: Serve, tmp_path: Path) -> None:
    ours, theirs = certified(tmp_path)
    app = web.Application()
    keepalive.setup(app, "memory://")
    port = (await serve(app, tls=ours)).port
    error = await refused(f"https://localhost:{port}")
    assert type(error) is TlsError
    async with ClientSession(connector=TCPConnector(ssl=theirs)) as session:
        with pytest.raises(SessionEnded):
            await keepalive.connect(f"https://localhost:{port}", session=session).__aenter__()


async def test_https_where_http_is_spoken(serve: Serve) -> None:
    app = web.Application()
    keepalive.setup(app, "memory://")
    port = (await serve(app)).port
    assert type(await refused(f"https://127.0.0.1:{port}")) is TlsError


@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_takes_no_cookie_along_in_the_clear(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Behind a proxy that ends TLS, an app easily redirects to http; a page's WebSocket follows nobody."""
    asked: list[tuple[str, str | None]] = []

    async def listen(request: web.Request) -> web.Response:
        asked.append((request.path, request.headers.get("Cookie")))
        return web.Response(headers={"Set-Cookie": "keepalive=planted"})

    plain = web.Application()
    plain.router.add_route("*", "/{path:.*}", listen)
    elsewhere = f"http://localhost:{(await serve(plain)).port}"

    async def redirect(request: web.Request) -> web.Response:
        return web.Response(status=status, headers={"Location": f"{elsewhere}{request.path}"})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", redirect)
    ours, theirs = certified(tmp_path)
    monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", theirs)
    url = f"https://localhost:{(await serve(app, tls=ours)).port}"
    await refused(url, cookies={"__Host-keepalive": "secret"})
    async with ClientSession(connector=TCPConnector(ssl=theirs), cookies={"keepalive": "secret"}) as session:
        await Link(session, address_of(url)).ask(b"{}")
        await Link(session, address_of(url)).read_refusal()
    # aiohttp follows with the handshake, whatever it is told; then without the cookie.
    assert {path for path, _ in asked} == {"/keepalive/ws"}
    assert not any("secret" in (cookie or "") for _, cookie in asked)

    asked.clear()
    async with keepalive.HeartPool(url, ssl=theirs) as pool:
        heart = pool.add({"keepalive": "secret"})
        await pool._post(heart, 0)
        assert heart._cookie == "keepalive=secret"
    assert asked == []


async def test_an_expired_session(serve: Serve) -> None:
    """The reason is the server's; the cookie is as good as it ever was."""
    app = web.Application()
    heart = keepalive.setup(app, "memory://")

    async def login(request: web.Request) -> web.Response:
        await heart.start(request, "ann")
        return web.Response()

    async def logout(request: web.Request) -> web.Response:
        await heart.end(request)
        return web.Response()

    app.router.add_post("/login", login)
    app.router.add_post("/logout", logout)
    base = f"http://127.0.0.1:{(await serve(app)).port}"
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as session:
        await session.post(f"{base}/login")
        cookies = {each.key: each.value for each in session.cookie_jar}
        await session.post(f"{base}/logout")
    with pytest.raises(SessionEnded) as caught:
        await keepalive.connect(base, cookies=cookies).__aenter__()
    assert caught.value.reason == "logout"


async def test_a_session_that_raises_for_every_status_changes_nothing() -> None:
    answer = http("400 Bad Request", "offer the subprotocol keepalive.v2\n")
    async with answering(answer) as (port, _), ClientSession(raise_for_status=True) as session:
        error = await refused(f"http://127.0.0.1:{port}", session=session, cookies=None)
    assert type(error) is VersionError


@pytest.mark.parametrize("url", ["http://app..example", f"http://{'a' * 64}.example"])
def test_a_name_that_nobody_can_look_up(url: str) -> None:
    with pytest.raises(SettingError, match="URL"):
        keepalive.connect(url, cookies={})
    with pytest.raises(SettingError, match="URL"):
        keepalive.HeartPool(url)


@pytest.mark.parametrize("user", ["%E2%82%AC:x", "a%3Ab:x"])
def test_a_user_and_a_password_that_cannot_be_sent(user: str) -> None:
    with pytest.raises(SettingError, match="URL"):
        keepalive.connect(f"http://{user}@app.example", cookies={})
    with pytest.raises(SettingError, match="URL"):
        keepalive.HeartPool(f"http://{user}@app.example")


@pytest.mark.parametrize("name", ["", "a b", "a\n"])
def test_a_cookie_without_a_name(name: str) -> None:
    with pytest.raises(SettingError, match="cookie cannot be sent") as caught:
        keepalive.connect("http://127.0.0.1", cookies={name: "x"})
    assert caught.value.solution


async def test_an_answer_without_an_end() -> None:
    """It is let go of, before it fills the memory."""
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n")
        while True:
            writer.write(b"<" * 65536)
            await writer.drain()
            sent += 65536

    async with listening(flood) as port:
        assert type(await refused(f"http://127.0.0.1:{port}")) is NotKeepaliveError
        async with asyncio.timeout(DEADLINE), keepalive.HeartPool(f"http://127.0.0.1:{port}") as pool:
            await pool._post(pool.add({}), 0)
    assert sent < 64 * 1024 * 1024


@pytest.mark.parametrize("status", ["403 Forbidden", "407 Proxy Authentication Required"])
async def test_a_proxy_that_lets_nobody_through(status: str) -> None:
    """Its 403 says nothing of an origin."""
    async with answering(http(status)) as (port, asked):
        async with ClientSession(proxy=f"http://127.0.0.1:{port}") as session:
            error = await refused("https://app.example", session=session, cookies=None)
        assert asked[0].startswith(b"CONNECT app.example:443")
    assert type(error) is ServerUnavailable
    assert error.problem == "the proxy lets nobody through to https://app.example"


async def test_a_proxy_that_is_away() -> None:
    proxy = f"http://127.0.0.1:{free_port()}"
    async with ClientSession(proxy=proxy) as session:
        error = await refused("http://app.example", session=session, cookies=None)
    assert error.problem == "the proxy lets nobody through to http://app.example"


async def test_who_has_no_cookie_is_told_so(serve: Serve) -> None:
    """As everybody is once who tries it on this machine: aiohttp's jar ignores the cookies of addresses."""
    app = web.Application()
    keepalive.setup(app, "memory://")
    base = f"http://127.0.0.1:{(await serve(app)).port}"
    for session, told in ((ClientSession(), True), (ClientSession(cookie_jar=CookieJar(unsafe=True)), False)):
        async with session:
            session.cookie_jar.update_cookies({"keepalive": "unknown"}, URL(base))
            with pytest.raises(SessionEnded) as caught:
                await keepalive.connect(base, session=session).__aenter__()
        assert ("unsafe=True" in "".join(getattr(caught.value, "__notes__", []))) is told
