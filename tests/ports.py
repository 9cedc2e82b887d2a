"""Ports for servers of other programs, which have to be told theirs before they take it.

A port that the system gives away, and that is let go again, may be gone when the server wants it, or when
it is started anew: every outgoing connection takes one out of the same range, and keeps it for a minute
after its end. A client that knocks at a dead server's port can even be given that port, and talks to itself.
"""

import socket
from contextlib import suppress
from random import SystemRandom

RANGE = 10_240, 32_768
"""Below what Linux gives to outgoing connections (`net.ipv4.ip_local_port_range`)."""
_random = SystemRandom()  # the other one has the same numbers in all tests of hypothesis


def free_port() -> int:
    """A port that nobody has; the range has hundreds of times more than the tests need at once."""
    while True:
        port = _random.randrange(*RANGE)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
