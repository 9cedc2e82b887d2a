"""Real sockets: servers on free ports, and a client that can break every rule of RFC 6455.

Each wait has a deadline.
"""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NamedTuple, Self

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from multidict import CIMultiDict

DEADLINE = 5.0
"""What has not happened within this many seconds does not happen."""
CERTIFICATE = "certificate.pem"
"""What `certified` leaves in its folder: the certificate, which is its own authority, and its key."""
KEY = "dGhlIHNhbXBsZSBub25jZQ=="
ACCEPT = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="  # RFC 6455 §1.3 gives this pair as its example
MASK = b"\x37\xfa\x21\x3d"
CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

Headers = Mapping[str, str | list[str] | None]


async def until(condition: Callable[[], object], within: float = DEADLINE) -> None:
    """Wait for a condition to come true; fails after `within` seconds."""
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.002)


class Served(NamedTuple):
    """A server under test."""

    runner: web.AppRunner
    port: int


@asynccontextmanager
async def serving(
    app: web.Application, *, tls: ssl.SSLContext | None = None, **options: Any
) -> AsyncIterator[Served]:
    """Serve an app on a free port of 127.0.0.1; `options` are those of `web.AppRunner`."""
    runner = web.AppRunner(app, **({"access_log": None, "shutdown_timeout": 1.0} | options))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        yield Served(runner, runner.addresses[0][1])
    finally:
        if tls is not None and runner.server is not None:
            # A mere close would wait for the other side's close_notify, and the loop may be gone by then.
            for connection in runner.server.connections:
                if connection.transport is not None:
                    connection.transport.abort()
        await runner.cleanup()


def certified(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's and a client's context, with a certificate for this machine made just now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    names = [x509.DNSName("localhost"), x509.IPAddress(IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = folder / CERTIFICATE
    pem.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ours.load_cert_chain(pem)
    return ours, ssl.create_default_context(cafile=str(pem))


def handshake(path: str, headers: Headers | None = None, *, method: str = "GET") -> bytes:
    """A handshake; `headers` change it: `None` leaves one out, a list sends it several times."""
    told: dict[str, str | list[str] | None] = {
        "Host": "127.0.0.1",
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": KEY,
        "Sec-WebSocket-Protocol": "keepalive.v1",
    }
    told |= headers or {}
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in told.items():
        values = [value] if isinstance(value, str) else value or []
        lines += [f"{name}: {each}" for each in values]
    return "\r\n".join([*lines, "", ""]).encode()


def frame(
    payload: bytes = b"",
    opcode: int = TEXT,
    *,
    final: bool = True,
    reserved: int = 0,
    mask: bytes | None = MASK,
    announced: int | None = None,
) -> bytes:
    """A frame of a client; `announced` is the length that its header claims."""
    length = len(payload) if announced is None else announced
    head = bytes([final << 7 | reserved << 4 | opcode])
    masked = 0 if mask is None else 0x80
    if length < 126:
        head += bytes([masked | length])
    elif length < 1 << 16:
        head += bytes([masked | 126]) + length.to_bytes(2)
    else:
        head += bytes([masked | 127]) + length.to_bytes(8)
    if mask is None:
        return head + payload
    return head + mask + bytes(byte ^ mask[number % 4] for number, byte in enumerate(payload))


def ping(n: int, **fields: object) -> bytes:
    """The page protocol's ping, as a frame."""
    return frame(json.dumps({"type": "ping", "n": n, "idle": 0.0, "visible": True} | fields).encode())


class Received(NamedTuple):
    """A frame of the server."""

    opcode: int
    payload: bytes


class RawPage:
    """One connection to a server, from the handshake on. Made by `open`."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self.status = 0
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.body = b""

    @classmethod
    @asynccontextmanager
    async def open(
        cls,
        port: int,
        request: bytes,
        *,
        tls: ssl.SSLContext | None = None,
        receive_buffer: int | None = None,
    ) -> AsyncIterator[Self]:
        """Connect, send `request` and read the answer's head, and its body unless it is a 101.

        Args:
            port: on 127.0.0.1.
            request: the handshake, and whatever shall come in the same segment.
            tls: trusts the server, which is `localhost`.
            receive_buffer: the kernel's, in bytes; then nothing is read unless asked for.
        """
        plain = socket.socket(proto=socket.IPPROTO_TCP)  # else asyncio leaves Nagle's algorithm on
        if receive_buffer is not None:
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        plain.setblocking(False)
        await asyncio.get_running_loop().sock_connect(plain, ("127.0.0.1", port))
        limit = 2**16 if receive_buffer is None else 1
        name = None if tls is None else "localhost"
        reader, writer = await asyncio.open_connection(sock=plain, limit=limit, ssl=tls, server_hostname=name)
        page = cls(reader, writer)
        try:
            writer.write(request)
            await page._read_head()
            yield page
        finally:
            page.cut()
            with suppress(OSError):
                await asyncio.wait_for(writer.wait_closed(), DEADLINE)

    async def _read_head(self) -> None:
        async with asyncio.timeout(DEADLINE):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += await self._reader.readexactly(1)
            first, *lines = head.decode().split("\r\n")[:-2]
            self.status = int(first.split()[1])
            for line in lines:
                name, _, value = line.partition(": ")
                self.headers.add(name, value)
            if self.status != 101:
                self.body = await self._reader.readexactly(int(self.headers.get("Content-Length", "0")))

    def send(self, data: bytes) -> None:
        """Send any bytes."""
        self.writer.write(data)

    async def read(self, count: int) -> bytes:
        """The next so many bytes."""
        async with asyncio.timeout(DEADLINE):
            return await self._reader.readexactly(count)

    async def frame(self) -> Received:
        """The next frame."""
        async with asyncio.timeout(DEADLINE):
            head = await self._reader.readexactly(2)
            assert not head[1] & 0x80, "a server must not mask (RFC 6455 §5.1)"
            length = head[1]
            if length >= 126:
                length = int.from_bytes(await self._reader.readexactly(2 if length == 126 else 8))
            return Received(head[0] & 0x0F, await self._reader.readexactly(length))

    async def message(self, kind: str | None = None) -> dict[str, Any]:
        """The next text message; of all others than this `kind`, if one is given, none counts."""
        while True:
            opcode, payload = await self.frame()
            assert opcode == TEXT, (opcode, payload)
            message: dict[str, Any] = json.loads(payload)
            if kind in (None, message["type"]):
                return message

    async def close_code(self) -> int:
        """The code of the server's goodbye, past all messages; 1006 if it hangs up without one."""
        try:
            while True:
                opcode, payload = await self.frame()
                if opcode == CLOSE:
                    return int.from_bytes(payload[:2])
        except (asyncio.IncompleteReadError, ConnectionError):
            return 1006

    async def end_of_stream(self) -> bytes:
        """What else comes until the server ends the TCP connection."""
        async with asyncio.timeout(DEADLINE):
            try:
                return await self._reader.read()
            except ConnectionError:
                return b""

    async def leave(self, code: int = 1000) -> int:
        """Close in good order; returns the code of the server's answer."""
        self.send(frame(code.to_bytes(2), CLOSE))
        answer = await self.close_code()
        await self.end_of_stream()
        return answer

    def cut(self) -> None:
        """Break the connection off."""
        self.writer.transport.abort()
