"""What `keepalive doctor` has to say of one thing: how it is, why that matters, and what to do."""

from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How bad it is."""

    GREEN = "green"
    YELLOW = "yellow"
    RED = "red"


class Finding(NamedTuple):
    """What a check found."""

    level: Level
    about: str
    """What was looked at, in a word or two."""
    what: str
    why: str = ""
    fix: str = ""
