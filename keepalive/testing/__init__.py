"""A test kit for apps that keep sessions: virtual time, fake browser tabs, stores with faults.

With pytest, the fixtures are the API (docs/testing.md); these are their types.
"""

from .clock import Timed, VirtualClock
from .kit import AssertEnds, KeepaliveApp, KeepaliveServer, OpenPage
from .page import Page
from .server import Server
from .store import FaultyStore, StoreFault

__all__ = [
    "AssertEnds",
    "FaultyStore",
    "KeepaliveApp",
    "KeepaliveServer",
    "OpenPage",
    "Page",
    "Server",
    "StoreFault",
    "Timed",
    "VirtualClock",
]
