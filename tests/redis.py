"""Real Redis servers on free ports of 127.0.0.1: alone, with Sentinels, and as a Cluster.

All that they write stays in a folder of the test, and they end with it, by their process ids.
"""

import asyncio
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep
from typing import Any

from redis import Redis, RedisError

from .hosts import LOCAL, Host
from .ports import free_port
from .raw import DEADLINE

REDIS = "/usr/bin/redis-server"
TLS = [*("--tls-auth-clients", "no"), *("--tls-replication", "yes"), *("--tls-cluster", "yes")]
SERVICE = "sessions"
"""What the Sentinels call the primary and its replica."""
_OFTEN = [(period, 100) for period in ("info-period", "ask-period", "publish-period")]
"""How often Sentinels ask, and tell, in milliseconds; by default it is every few seconds."""


class RedisServer:
    """One server, to be started, killed, and started anew on the same port. Made by `redis_server`.

    Args:
        folder: where it writes.
        options: as on its command line.
        host: where it runs.
        tls: a certificate with its key; without one it speaks plainly.
        password: of whoever comes without another name.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        host: Host = LOCAL,
        tls: Path | None = None,
        password: str | None = None,
    ) -> None:
        assert Path(REDIS).exists(), f"install redis-server: {REDIS} is missing"
        self.port = free_port()
        self.url = f"redis://{host.address}:{self.port}"
        self._host = host
        self._tls = tls
        self.password = password
        self._folder = folder / str(self.port)
        self._folder.mkdir(parents=True)
        self._options = options
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; returns when it answers."""
        where = ["--bind", self._host.address, "--protected-mode", "no", "--dir", str(self._folder)]
        if self._tls is None:
            where += ["--port", str(self.port)]
        else:
            where += ["--port", "0", "--tls-port", str(self.port), *TLS]
            for what in ("cert", "key", "ca-cert"):
                where += [f"--tls-{what}-file", str(self._tls)]
        if self.password is not None:
            where += ["--requirepass", self.password]
        quiet = ["--save", "", "--logfile", "log", "--repl-diskless-sync-delay", "0"]
        self._process = subprocess.Popen(
            [*self._host.enter, REDIS, *self._config(), *where, *quiet, *self._options],
            stdout=subprocess.DEVNULL,
        )
        await_true(self._answers)

    def _config(self) -> Sequence[str]:
        return []

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text()
        try:
            return self.call("PING") is not None
        except RedisError as error:
            return "NOAUTH" in str(error)

    @property
    def runs(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def call(self, *command: str | bytes | int, user: str | None = None, password: str | None = None) -> Any:
        """Run a command, as an operator does; not while it is stopped."""
        with Redis(
            self._host.address,
            self.port,
            username=user,
            password=password or self.password,
            ssl=self._tls is not None,
            ssl_ca_certs=None if self._tls is None else str(self._tls),
            protocol=2,
            socket_timeout=DEADLINE,
        ) as redis:
            return redis.execute_command(*command)

    def info(self, name: str) -> str:
        """A line of `INFO everything`."""
        return str(self.call("INFO", "everything")[name])

    def kill(self) -> None:
        """`kill -9`; returns when it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(DEADLINE)

    def stop(self) -> None:
        """SIGSTOP: from now on it hangs, with all connections open."""
        self._signal(signal.SIGSTOP)
        await_true(lambda: self._state() == "T")

    def go_on(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _state(self) -> str:
        assert self._process is not None
        return Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(") ")[2][0]


class _Sentinel(RedisServer):
    """Watches over a primary, and names the replica that follows when it is gone."""

    def __init__(
        self, folder: Path, primary: RedisServer, *, quorum: int, patience: int, **options: Any
    ) -> None:
        super().__init__(folder, **options)
        self._written = self._folder / "sentinel.conf"
        self._written.write_text(  # it keeps its notes there
            f"sentinel monitor {SERVICE} 127.0.0.1 {primary.port} {quorum}\n"
            f"sentinel down-after-milliseconds {SERVICE} {patience}\n"
            f"sentinel failover-timeout {SERVICE} 2000\n"
        )
        for command, password in (
            (f"auth-pass {SERVICE}", primary.password),
            ("sentinel-pass", self.password),
        ):
            if password is not None:
                with self._written.open("a") as file:
                    file.write(f"sentinel {command} {password}\n")

    def _config(self) -> Sequence[str]:
        return [str(self._written), "--sentinel"]

    def start(self) -> None:
        super().start()
        for period, often in _OFTEN:
            self.call("SENTINEL", "DEBUG", period, often)


@dataclass
class Sentinels:
    """A primary, its replica, and three Sentinels. Made by `sentinels`."""

    primary: RedisServer
    replica: RedisServer
    watchers: list[RedisServer]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{_places(self.watchers)}/{SERVICE}"


@dataclass
class Cluster:
    """Primaries that share all slots, each with its replicas. Made by `cluster`."""

    primaries: list[RedisServer]
    replicas: list[RedisServer]

    @property
    def url(self) -> str:
        return f"redis+cluster://{_places(self.primaries)}"


class Relay:
    """A way to a server that can be slow, break off, or lead to another one. What is connected stays so."""

    def __init__(self, server: RedisServer) -> None:
        self.leads_to = server
        self.delay = 0.0
        """By how many seconds an answer is late."""
        self.url = ""
        self._clients: list[asyncio.StreamWriter] = []

    def reset(self) -> None:
        """Break off all connections with a reset, as what has forgotten them does."""
        for client in self._clients:
            at_once = struct.pack("ii", 1, 0)
            client.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
            client.transport.abort()
        self._clients.clear()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Relay"]:
        async with AsyncExitStack() as stack:
            tasks = await stack.enter_async_context(_tasks())

            async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                self._clients.append(writer)
                there, back = await asyncio.open_connection("127.0.0.1", self.leads_to.port)
                for each in writer, back:
                    stack.callback(each.transport.abort)
                tasks.add(asyncio.create_task(self._pass_on(reader, back, late=False)))
                tasks.add(asyncio.create_task(self._pass_on(there, writer, late=True)))

            server = await asyncio.start_server(serve, "127.0.0.1", 0)
            await stack.enter_async_context(server)
            self.url = f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, late: bool
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay if late else 0)
                writer.write(data)
        writer.close()


@asynccontextmanager
async def _tasks() -> AsyncIterator[set[asyncio.Task[None]]]:
    """Tasks that end with the block."""
    tasks: set[asyncio.Task[None]] = set()
    try:
        yield tasks
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def redis_server(folder: Path, *options: str, **others: Any) -> Iterator[RedisServer]:
    """A server alone, as `RedisServer` has it."""
    server = RedisServer(folder, *options, **others)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@contextmanager
def sentinels(
    folder: Path, *, tls: Path | None = None, password: str | None = None, watchword: str | None = None
) -> Iterator[Sentinels]:
    """Servers that fail over half a second after the primary has gone silent, and an election.

    Args:
        folder: where they write.
        tls: the certificate of all of them.
        password: of the primary and the replica.
        watchword: the password of the Sentinels themselves.
    """
    with ExitStack() as stack:
        own = ["--masterauth", password] if password is not None else []
        primary = stack.enter_context(redis_server(folder, *own, tls=tls, password=password))
        own += ["--replicaof", f"127.0.0.1 {primary.port}"]
        replica = stack.enter_context(redis_server(folder, *own, tls=tls, password=password))
        watchers: list[RedisServer] = [
            _Sentinel(folder, primary, quorum=2, patience=patience, tls=tls, password=watchword)
            for patience in (500, 500, 3000)  # were all as quick, each would elect itself, and then wait long
        ]
        for watcher in watchers:
            stack.callback(watcher.kill)
            watcher.start()
        await_true(lambda: replica.info("master_link_status") == "up")
        await_true(lambda: all(_knows_all(watcher) for watcher in watchers))
        yield Sentinels(primary, replica, watchers)


def _knows_all(watcher: RedisServer) -> bool:
    """Whether a Sentinel knows the others, and the replica."""
    told = iter(watcher.call("SENTINEL", "MASTER", SERVICE))
    state = dict(zip(told, told, strict=True))
    return (state[b"num-other-sentinels"], state[b"num-slaves"]) == (b"2", b"1")


@contextmanager
def cluster(folder: Path, *, replicas: int = 0, tls: Path | None = None) -> Iterator[Cluster]:
    """Three primaries; one that is silent for a second counts as gone, and the others go on.

    Args:
        folder: where they write.
        replicas: how many of the primaries have one.
        tls: the certificate of all of them.
    """
    with ExitStack() as stack:
        servers: list[RedisServer] = []
        bus = free_port()  # of the first; there the others meet it
        for number in range(3 + replicas):
            options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]
            options += ["--cluster-port", str(free_port() if number else bus)]
            options += ["--cluster-require-full-coverage", "no"]
            server = stack.enter_context(redis_server(folder, *options, tls=tls))
            server.call("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            servers.append(server)
        whole = Cluster(servers[:3], servers[3:])
        for number, primary in enumerate(whole.primaries):
            first, beyond = (place * 16384 // 3 for place in (number, number + 1))
            primary.call("CLUSTER", "ADDSLOTSRANGE", first, beyond - 1)

        for _ in range(4):  # whoever is not met within a second, as on a machine that stalls, is forgotten
            for server in servers[1:]:
                server.call("CLUSTER", "MEET", "127.0.0.1", servers[0].port, bus)
            with suppress(AssertionError):
                await_true(lambda: all(_is_whole(server, len(servers)) for server in servers))
                break
        else:
            raise AssertionError("the Cluster does not come together")
        for primary, replica in zip(whole.primaries, whole.replicas, strict=False):
            replica.call("CLUSTER", "REPLICATE", primary.call("CLUSTER", "MYID"))
            await_true(lambda replica=replica: replica.info("master_link_status") == "up")  # type: ignore[misc]
        yield whole


def _is_whole(server: RedisServer, nodes: int) -> bool:
    """Whether a node of a Cluster knows so many nodes, and which has which slots."""
    state = server.call("CLUSTER", "INFO").decode().split()
    return "cluster_state:ok" in state and f"cluster_known_nodes:{nodes}" in state


def await_true(condition: Callable[[], object], within: float = DEADLINE) -> None:
    """Wait for a condition to come true, outside of an event loop; fails after `within` seconds."""
    deadline = monotonic() + within
    while not condition():
        assert monotonic() < deadline, condition
        sleep(0.01)


def _places(servers: Sequence[RedisServer]) -> str:
    return ",".join(f"127.0.0.1:{server.port}" for server in servers)
