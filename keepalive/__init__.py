"""Keeps browser sessions alive over one WebSocket a page, instead of AJAX polling.

import keepalive

keepalive.setup(app, "sqlite:///sessions.db")
"""

from .errors import (
    FrameError,
    KeepaliveError,
    MessageError,
    ProtocolError,
    SettingError,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
)
from .heart import Hooks
from .policy import Mode, Policy, Reason
from .seal import Seal
from .session import KeepaliveStorage, passive
from .stores import SessionStore, open_store
from .touchers import Toucher
from .web import KEEPALIVE, Keepalive, State, setup

__all__ = [
    # .errors
    "FrameError",
    "KeepaliveError",
    "MessageError",
    "ProtocolError",
    "SettingError",
    "StoreCorrupt",
    "StoreError",
    "StoreUnavailable",
    # .heart
    "Hooks",
    # .policy
    "Mode",
    "Policy",
    "Reason",
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
    "State",
    "setup",
]

__version__ = "0.1.0"
