"""What can go wrong, as one tree.

    KeepaliveError
    ├── SettingError         a setting that cannot work
    ├── ProtocolError        the other side broke a rule; carries the close code
    │   ├── FrameError       … of RFC 6455
    │   └── MessageError     … of the page protocol
    ├── StoreError           a session store
    │   ├── StoreUnavailable     could not be asked: nothing is known to have happened
    │   └── StoreCorrupt         holds something that is not ours or no longer whole
    ├── ConnectError         a client does not get through to its server
    │   ├── ServerUnavailable    nobody answers there, or not now
    │   ├── TlsError             the connection cannot be trusted
    │   ├── NotKeepaliveError    somebody else answers
    │   ├── VersionError         the server speaks another version of the page protocol
    │   └── OriginError          the server refuses the origin
    └── SessionEnded         a client's session is over; carries the reason

Every error says what happened, and where the reader can mend it, `solution` says how.
"""


class KeepaliveError(Exception):
    """Root of all errors that this package raises on purpose.

    Args:
        problem: what happened, one sentence without a full stop.
        solution: what to do next, one sentence; empty where there is nothing to do.
    """

    def __init__(self, problem: str, solution: str = "") -> None:
        super().__init__(problem)
        self.problem = problem
        self.solution = solution

    def __str__(self) -> str:
        return f"{self.problem}: {self.solution}" if self.solution else self.problem


class SettingError(KeepaliveError, ValueError):
    """A setting that cannot work, found at start."""


class ProtocolError(KeepaliveError):
    """The other side broke a rule of the protocol.

    Args:
        code: the close code that answers it (RFC 6455 §7.4.1).
        problem: what was wrong; never quotes what was received.
    """

    def __init__(self, code: int, problem: str) -> None:
        super().__init__(problem)
        self.code = code


class FrameError(ProtocolError):
    """Bytes that break RFC 6455."""


class MessageError(ProtocolError):
    """A text that is no message of the page protocol."""


class StoreError(KeepaliveError):
    """A session store failed."""


class StoreUnavailable(StoreError):
    """The store could not be asked; nothing may be concluded about any session."""


class StoreCorrupt(StoreError):
    """The store holds something that is not a session database, or no longer a whole one."""


class ConnectError(KeepaliveError):
    """A client does not get through to its server."""


class ServerUnavailable(ConnectError):
    """Nobody answers there, or not in time, or the server says that it cannot now. Try again later."""


class TlsError(ConnectError):
    """The connection cannot be trusted: the server's certificate, or what it speaks instead of TLS."""


class NotKeepaliveError(ConnectError):
    """Somebody answers, but not as this server does under this URL."""


class VersionError(ConnectError):
    """The server speaks another version of the page protocol."""


class OriginError(ConnectError):
    """The server refuses the `Origin` that the client sends."""


class SessionEnded(KeepaliveError):
    """The session of a client is over, or has never been.

    Args:
        reason: why, as the server said: a `Reason`, which is a string.
        login: where to sign in again, if the server said.
    """

    def __init__(self, reason: str, login: str | None = None) -> None:
        super().__init__(
            f"the session is over ({reason})",
            f"sign in {f'at {login}' if login else 'again'} for a new cookie",
        )
        self.reason = reason
        self.login = login
