"""Hosts of their own, with links between them that can be cut: network namespaces and veth pairs.

Linux alone has them, and to make one takes a right that root has on most machines, and few containers.
"""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from shutil import which
from typing import NamedTuple

import pytest

_NEW_NETWORK = 0x40000000  # CLONE_NEWNET
_CONNECT = """
import socket, sys
socket.create_connection((sys.argv[1], int(sys.argv[2])), 0.5)
"""


class Host(NamedTuple):
    """Where a process is started: its address, and what has to stand before its command."""

    address: str
    enter: Sequence[str] = ()

    def run(self, *command: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.enter, *command], capture_output=True, text=True, check=False, timeout=20
        )

    def reaches(self, address: str, port: int) -> bool:
        """Whether a connection is accepted there; it may not be refused: a cut drops packets."""
        done = self.run(sys.executable, "-c", _CONNECT, address, str(port))
        assert done.returncode == 0 or "TimeoutError" in done.stderr, done.stderr
        return done.returncode == 0


LOCAL = Host("127.0.0.1")
"""This machine."""


class Link:
    """A cable between two hosts."""

    def __init__(self, name: str, one: Host, other: Host) -> None:
        self._ends = (one, f"{name}-a", other), (other, f"{name}-b", one)
        (_, device, _), (_, far, _) = self._ends
        _ip(other, "link", "add", "name", device, "type", "veth", "peer", "name", far)
        _ip(other, "link", "set", "dev", device, "netns", _process(one))
        for host, device, peer in self._ends:
            # A host has one address, whichever link is used: so what listens on it is found by all.
            _ip(host, "address", "add", host.address, "peer", peer.address, "dev", device)
            _ip(host, "link", "set", "dev", device, "up")

    def cut(self) -> None:
        """From now on all packets go to a card that nobody has: they are lost, and nobody is told."""
        for host, device, peer in self._ends:
            nobody = ("lladdr", "02:00:00:00:00:00", "nud", "permanent")
            _ip(host, "neighbour", "replace", peer.address, *nobody, "dev", device)

    def heal(self) -> None:
        for host, device, peer in self._ends:
            _ip(host, "neighbour", "delete", peer.address, "dev", device)


class Network:
    """Hosts without any network but the links between them; the test is on one. Made by `network`."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self._count = 1
        self.here = Host("10.77.0.1")

    def host(self) -> Host:
        self._count += 1
        command = ["unshare", "--net", "sh", "-c", "echo ready && exec sleep infinity"]
        holder = self._stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE))
        self._stack.callback(holder.kill)
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"ready\n"
        host = Host(f"10.77.0.{self._count}", ("nsenter", f"--net=/proc/{holder.pid}/ns/net"))
        _ip(host, "link", "set", "dev", "lo", "up")
        return host


@contextmanager
def network() -> Iterator[Network]:
    """Take this thread out of the machine's network, and all processes that it starts."""
    for program in ("ip", "unshare", "nsenter"):
        if which(program) is None:
            pytest.skip(f"network namespaces need `{program}`")
    libc = ctypes.CDLL(None, use_errno=True)
    former = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_NEW_NETWORK):
            pytest.skip(f"this machine gives no network namespaces: {os.strerror(ctypes.get_errno())}")
        try:
            with ExitStack() as stack:
                made = Network(stack)
                _ip(made.here, "link", "set", "dev", "lo", "up")
                yield made
        finally:
            assert libc.setns(former, _NEW_NETWORK) == 0, os.strerror(ctypes.get_errno())
    finally:
        os.close(former)


def _process(host: Host) -> str:
    """Who holds a host's namespace."""
    return host.enter[1].split("/")[2]


def _ip(host: Host, *command: str) -> None:
    done = host.run("ip", *command)
    assert done.returncode == 0, (command, done.stderr)
