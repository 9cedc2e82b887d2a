"""Keeps browser sessions alive over one WebSocket a page, instead of AJAX polling.

import keepalive

keepalive.setup(app, "sqlite:///sessions.db")
"""

from .client import Heart, HeartPool, connect
from .door import State
from .errors import (
    ConnectError,
    FrameError,
    KeepaliveError,
    MessageError,
    NotKeepaliveError,
    OriginError,
    ProtocolError,
    ServerUnavailable,
    SessionEnded,
    SettingError,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
    TlsError,
    VersionError,
)
from .heart import Hooks
from .limits import Limits
from .policy import Mode, Policy, Reason
from .presence import Presence, SessionPresence
from .seal import Seal
from .session import KeepaliveStorage, passive
from .stores import SessionStore, open_store
from .touchers import Toucher
from .web import KEEPALIVE, Keepalive, setup

__all__ = [
    # .client
    "Heart",
    "HeartPool",
    "connect",
    # .door
    "State",
    # .errors
    "ConnectError",
    "FrameError",
    "KeepaliveError",
    "MessageError",
    "NotKeepaliveError",
    "OriginError",
    "ProtocolError",
    "ServerUnavailable",
    "SessionEnded",
    "SettingError",
    "StoreCorrupt",
    "StoreError",
    "StoreUnavailable",
    "TlsError",
    "VersionError",
    # .heart
    "Hooks",
    # .limits
    "Limits",
    # .policy
    "Mode",
    "Policy",
    "Reason",
    # .presence
    "Presence",
    "SessionPresence",
    # .seal
    "Seal",
    # .session
    "KeepaliveStorage",
    "passive",
    # .stores
    "SessionStore",
    "open_store",
    # .touchers
    "Toucher",
    # .web
    "KEEPALIVE",
    "Keepalive",
    "setup",
]

__version__ = "0.1.0"
