"""The other side of the page protocol: sessions kept alive from Python.

async with keepalive.connect("https://app.example/keepalive/", session=session) as heart:
    ...  # the session of the cookies in `session` stays alive here
"""

from ..messages import Beat, End, Push, Warning
from .events import Event, StateChange
from .heart import Heart, connect
from .machine import State
from .pool import HeartPool, PoolHeart

__all__ = [
    "Beat",
    "End",
    "Event",
    "Heart",
    "HeartPool",
    "PoolHeart",
    "Push",
    "State",
    "StateChange",
    "Warning",
    "connect",
]
