"""What can go wrong, as one tree.

    KeepaliveError
    ├── SettingError         a setting that cannot work
    ├── ProtocolError        the other side broke a rule; carries the close code
    │   ├── FrameError       … of RFC 6455
    │   └── MessageError     … of the page protocol
    └── StoreError           a session store
        ├── StoreUnavailable     could not be asked: nothing is known to have happened
        └── StoreCorrupt         holds something that is not ours or no longer whole

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
