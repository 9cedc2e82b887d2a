"""Several nodes on one Redis, behind a real proxy, and pages that come back as a browser's do."""

import asyncio
import json
import os
import random
import re
import resource
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from math import inf
from pathlib import Path
from shutil import which

from aiohttp import ClientError, ClientSession, ClientWebSocketResponse, WSMsgType

from .discretion import server_log
from .hosts import LOCAL, Host
from .ports import free_port
from .raw import DEADLINE

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"


def many_files() -> None:
    """Let this process, and those that it starts, have as many connections as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Node:
    """`run.py` on a port of its own, which it keeps through restarts."""

    def __init__(self, store: str, secret: str, *options: str, host: Host = LOCAL) -> None:
        self.port = free_port()
        self.url = f"http://{host.address}:{self.port}"
        self._command = [
            *host.enter,
            sys.executable,
            str(ROOT / "run.py"),
            "--host",
            host.address,
            "--port",
            str(self.port),
            "--store",
            store,
            *options,
        ]
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith("KEEPALIVE_")
        }
        self._environ["KEEPALIVE_SECRET"] = secret
        self._process: Process | None = None

    async def start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            *self._command, env=self._environ, stdout=PIPE, stderr=server_log()
        )
        assert self._process.stdout is not None
        async with asyncio.timeout(4 * DEADLINE):
            line = (await self._process.stdout.readline()).decode()
        assert f"listening on {self.url} " in line, line

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it; its exit code."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.send_signal(how)
        async with asyncio.timeout(4 * DEADLINE):
            return await self._process.wait()

    async def sockets(self) -> int:
        """How many pages it has, by its own metrics."""
        async with ClientSession() as http, http.get(f"{self.url}/metrics") as response:
            found = re.search(r"^keepalive_sockets (\d+)", await response.text(), re.MULTILINE)
        assert found
        return int(found[1])


@asynccontextmanager
async def nodes(count: int, store: str, secret: str, *options: str) -> AsyncIterator[list[Node]]:
    """Nodes that run."""
    made = [Node(store, secret, *options) for _ in range(count)]
    try:
        await asyncio.gather(*(node.start() for node in made))
        yield made
    finally:
        await asyncio.gather(*(node.stop(signal.SIGKILL) for node in made), return_exceptions=True)


@asynccontextmanager
async def proxy(kind: str, folder: Path, behind: Sequence[Node]) -> AsyncIterator[str]:
    """nginx or HAProxy as `deploy` configures it, but for ports, file names and limits; yields its URL.

    It takes 2,000 connections, and for each one to a node: `many_files` lets it.
    """
    port = free_port()
    name = {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]
    text = (DEPLOY / name).read_text()
    one, two = re.findall(r"^ *server .*127\.0\.0\.1:808\d.*\n", text, re.MULTILINE)
    servers = [
        one.replace("127.0.0.1:8081", f"127.0.0.1:{node.port}").replace("server one ", f"server n{number} ")
        for number, node in enumerate(behind)
    ]
    text = text.replace(one, "".join(servers)).replace(two, "")
    text, listens = re.subn(r"(listen |bind :)8080", lambda found: f"{found[1]}{port}", text)
    assert listens == 1
    config = folder / name
    if kind == "nginx":
        temporary = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        paths = "".join(f"{what}_temp_path {folder};\n" for what in temporary)
        text = text.replace("worker_rlimit_nofile 65536;", "").replace(
            "worker_connections 30000", "worker_connections 4000"
        )
        text = text.replace("http {", f"http {{\naccess_log off;\nerror_log stderr crit;\n{paths}", 1)
        user = " user root;" if os.getuid() == 0 else ""
        command = ["-c", str(config), "-e", "stderr"]
        command += ["-g", f"daemon off; pid {folder}/nginx.pid;{user}"]
    else:
        text = text.replace("maxconn 30000", "maxconn 2000")
        command = ["-f", str(config), "-db"]
    config.write_text(text)
    program = which(kind, path=f"{os.environ['PATH']}:/usr/sbin")
    assert program is not None, f"install {kind}"
    process = await asyncio.create_subprocess_exec(program, *command, stdout=DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(4 * DEADLINE), ClientSession() as http:
            while not await _serves(http, url):
                assert process.returncode is None, f"{kind} did not start; it says why on standard error"
                await asyncio.sleep(0.05)
        yield url
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _serves(http: ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return response.status == 200
    except ClientError:
        return False


async def until(condition: Callable[[], bool], within: float = 4 * DEADLINE) -> None:
    """Wait for a condition to come true; fails after `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.02)


async def sign_in(url: str, name: str) -> str:
    """The cookie of a new session."""
    async with (
        ClientSession() as http,
        http.post(f"{url}/login", data={"name": name}, allow_redirects=False) as answer,
    ):
        assert answer.status == 303, answer.status
        (cookie,) = answer.cookies.values()
        return f"{cookie.key}={cookie.value}"


async def who(url: str, cookie: str) -> object:
    """Who is signed in, by a request that extends nothing."""
    headers = {"Cookie": cookie, "X-Keepalive": "passive"}
    async with ClientSession() as http, http.get(f"{url}/whoami", headers=headers) as answer:
        return (await answer.json())["user"]


class Visitor:
    """A page of a session that comes back by the rules of the protocol.

    Args:
        http: opens its connections.
        url: the server, or what stands before it.
        cookie: the session's.
        patience: for how many seconds more than two intervals it stays where it hears nothing.
    """

    def __init__(self, http: ClientSession, url: str, cookie: str, patience: float = 5.0) -> None:
        self._http = http
        self._patience = patience
        self._url = url
        self._headers = {"Cookie": cookie, "Origin": url}
        self.beats = 0
        self.waits = 0
        self.reconnects = 0
        self.slowest = 0.0
        """The longest that an answer took, in seconds."""
        self.closed: list[int | None] = []
        """The close codes so far."""
        self.end: tuple[str, float] | None = None
        """Why the session is over, and when that was heard."""

    async def stay(self, interval: float) -> None:
        """Ping for ever; returns only with the end of the session."""
        spread = 3.0
        while self.end is None:
            with suppress(ClientError, TimeoutError, ConnectionError):
                async with self._http.ws_connect(
                    f"{self._url}/keepalive/ws", protocols=["keepalive.v1"], headers=self._headers
                ) as socket:
                    spread = await self._talk(socket, interval) or spread
                    self.closed.append(socket.close_code)
            if self.end is None:
                self.reconnects += 1
                await asyncio.sleep(max(0.05, spread * random.random() / 3))

    async def _talk(self, socket: ClientWebSocketResponse, interval: float) -> float | None:
        """Until the socket closes; returns the spread that the hello told."""
        loop = asyncio.get_running_loop()
        n, spread, heard_at, ping_at = 0, None, loop.time(), inf
        sent: dict[int, float] = {}
        while True:
            if loop.time() >= ping_at:
                n, ping_at = n + 1, loop.time() + interval
                sent[n] = loop.time()
                with suppress(ClientError, ConnectionError):  # it is lost, as what is received next tells
                    await socket.send_str(json.dumps({"type": "ping", "n": n}))
            silent_at = heard_at + 2 * interval + self._patience
            try:
                message = await socket.receive(max(0.0, min(ping_at, silent_at) - loop.time()))
            except TimeoutError:
                if loop.time() >= silent_at:
                    raise
                continue
            if message.type is not WSMsgType.TEXT:
                return spread
            heard_at, said = loop.time(), json.loads(message.data)
            if said["type"] == "hello":
                spread = said["spread"]
            if said["type"] in ("hello", "ask"):
                ping_at = loop.time()
            elif said["type"] in ("beat", "wait"):
                self.slowest = max(self.slowest, heard_at - sent.pop(said["n"]))
                if said["type"] == "beat":
                    self.beats += 1
                else:
                    self.waits += 1
            elif said["type"] == "end":
                self.end = (said["reason"], loop.time())
