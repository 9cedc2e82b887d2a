"""Who may import whom. A new arrow fails here until it is drawn, and it can only be drawn downwards."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "keepalive"
SOURCES = Path(__file__).parent.parent / PACKAGE

# The drawing, from the bottom up. A row stands for a module and, if that is a package, for what
# is below and has no row of its own; inside of a row all is free. `keepalive` is the package
# itself, its version and its public names.
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "clock": set(),
    "wheel": set(),
    "tasks": set(),
    "histogram": set(),
    "lines": set(),
    "audit": {"lines", "errors"},
    "lag": {"histogram"},
    "policy": {"errors"},
    "limits": {"errors"},
    "trust": {"errors"},
    "headers": set(),
    "messages": {"errors", "policy"},
    "frames": {"errors"},
    "seal": {"errors"},
    "upgrade": {"errors"},
    "workers": {"errors"},
    "siblings": {"workers"},
    "assets": set(),
    "presence": set(),
    "touchers": {"policy"},
    "touchers.aiohttp_session": {"trust", "touchers", "policy", "errors", "clock"},
    "stores": {"touchers", "tasks", "presence", "policy", "errors", "clock"},
    "connection": {"frames", "limits", "messages", "errors", "clock", "wheel"},
    "live": {"touchers", "messages", "policy"},
    "publisher": {"touchers", "errors"},
    "heart": {
        "audit",
        "publisher",
        "histogram",
        "limits",
        "live",
        "tasks",
        "touchers",
        "messages",
        "policy",
        "errors",
        "clock",
        "wheel",
    },
    "reporter": {"heart", "presence", "errors"},
    "lobby": {"trust"},
    "gate": {"heart", "connection", "limits", "live", "trust", "clock"},
    "session": {"audit", "stores", "seal", "trust", "touchers", "policy", "errors", "clock"},
    "stats": {"heart", "histogram", "lag"},
    "door": {"heart", "trust", "touchers", "policy", "errors"},
    "routes": {
        "door",
        "gate",
        "heart",
        "live",
        "connection",
        "upgrade",
        "messages",
        "policy",
        "errors",
        "clock",
    },
    "web": {
        "stats",
        "door",
        "routes",
        "assets",
        "audit",
        "gate",
        "headers",
        "heart",
        "lag",
        "limits",
        "live",
        "session",
        "connection",
        "presence",
        "reporter",
        "tasks",
        "trust",
        "stores",
        "touchers.aiohttp_session",
        "policy",
        "errors",
        "clock",
    },
    "client": {"frames", "messages", "policy", "errors", "clock", "wheel"},
    "conformance": {"client", "frames", "messages", "errors"},
    "testing": {
        "client",
        "web",
        "live",
        "session",
        "stores",
        "touchers",
        "messages",
        "policy",
        "errors",
        "clock",
    },
    "keepalive": {
        "client",
        "web",
        "door",
        "heart",
        "limits",
        "session",
        "stores",
        "seal",
        "presence",
        "touchers",
        "messages",
        "policy",
        "errors",
        "clock",
    },
    "admin": {
        "keepalive",
        "assets",
        "headers",
        "web",
        "heart",
        "live",
        "stats",
        "presence",
        "limits",
        "siblings",
        "tasks",
        "trust",
        "seal",
        "touchers",
        "policy",
        "errors",
        "clock",
    },
    "demo": {"assets", "web", "policy"},
    "metrics": {"keepalive", "web", "siblings", "lines", "histogram", "messages", "policy"},
    "settings": {"keepalive", "limits", "policy", "errors"},
    "logs": {"lines"},
    "server": {
        "admin",
        "audit",
        "headers",
        "lobby",
        "logs",
        "keepalive",
        "settings",
        "demo",
        "metrics",
        "web",
        "session",
        "heart",
        "siblings",
        "stores",
        "seal",
        "workers",
        "policy",
        "errors",
        "clock",
    },
    "commands": {
        "admin",
        "client",
        "conformance",
        "settings",
        "stores",
        "seal",
        "limits",
        "messages",
        "policy",
        "errors",
        "clock",
    },
    "cli": {
        "admin",
        "commands",
        "keepalive",
        "seal",
        "server",
        "settings",
        "workers",
        "errors",
    },
    "__main__": {"cli"},
}

# Which modules, as a pattern, may import what is not ours.
RESERVED = {
    "aiohttp": r"logs|upgrade|trust|headers|gate|lobby|assets|door|routes|web|session|server|metrics|demo"
    r"|admin(\.\w+)?|conformance|client(\.\w+)?|commands\.\w+|testing(\.\w+)?|touchers\.aiohttp_session",
    "aiohttp_session": r"session|web|demo|testing\.server|touchers\.aiohttp_session",
    "redis": r".*redis.*",
    "structlog": r"logs",
    "time": r"clock",
}

# These touch no socket, no file and no loop.
PURE = {"errors", "clock", "policy", "limits", "messages", "frames", "presence", "client.machine"}
IMPURE = {"asyncio", "io", "os", "pathlib", "select", "selectors", "socket", "ssl", "subprocess", "threading"}


class Import(NamedTuple):
    """One import: `module` imports `target`. Our own modules go without the package's name."""

    module: str
    target: str
    ours: bool
    line: int

    def __str__(self) -> str:
        return f"{self.module} imports {self.target} in line {self.line}"


def modules(sources: Path) -> dict[str, Path]:
    """Each module below `sources`, by its name without the package's."""
    found = {}
    for path in sorted(sources.rglob("*.py")):
        parts = path.relative_to(sources).with_suffix("").parts
        found[".".join(part for part in parts if part != "__init__") or PACKAGE] = path
    return found


def imports(sources: Path) -> Iterator[Import]:
    """Every import below `sources`, wherever in a module it stands."""
    known = modules(sources)
    for module, path in known.items():
        full = [PACKAGE] if module == PACKAGE else [PACKAGE, *module.split(".")]
        package = full if path.name == "__init__.py" else full[:-1]
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                targets = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) - node.level + 1] if node.level else []
                source = ".".join([*base, *([node.module] if node.module else [])])
                # `from . import policy` is a module, `from . import __version__` a name.
                targets = [f"{source}.{alias.name}" for alias in node.names]
                targets = [t if t.removeprefix(f"{PACKAGE}.") in known else source for t in targets]
            else:
                continue
            for target in targets:
                ours = target.split(".")[0] == PACKAGE
                yield Import(module, target.removeprefix(f"{PACKAGE}."), ours, node.lineno)


def row(module: str) -> str | None:
    """The row of the drawing that stands for a module; `None` if it has not been drawn."""
    while module not in ARROWS and "." in module:
        module = module.rpartition(".")[0]
    return module if module in ARROWS else None


def violations(sources: Path) -> list[str]:
    """Every import that the drawing and the two lists do not have."""
    found = []
    for one in imports(sources):
        here = row(one.module)
        root = one.target.split(".")[0]
        if here is None:
            allowed = False
        elif one.ours:
            there = row(one.target)
            allowed = there is not None and (there == here or there in ARROWS[here])
        else:
            allowed = bool(re.fullmatch(RESERVED.get(root, ".*"), one.module))
            allowed = allowed and not (one.module in PURE and root in IMPURE)
        if not allowed:
            found.append(str(one))
    return list(dict.fromkeys(found))


def test_nothing_is_imported_that_is_not_drawn() -> None:
    assert violations(SOURCES) == []


def test_every_module_is_drawn() -> None:
    assert [module for module in modules(SOURCES) if row(module) is None] == []


def test_the_drawing_has_no_circle() -> None:
    order = list(TopologicalSorter(ARROWS).static_order())
    assert set(order) == set(ARROWS), "an arrow points at something that has no row"


def test_the_pure_modules_are_there() -> None:
    assert set(modules(SOURCES)) >= PURE


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("policy", "from .messages import Ping"),
        ("policy", "from . import messages"),
        ("policy", "import keepalive.messages"),
        ("policy", "from keepalive.messages import Ping"),
        ("policy", "from keepalive import messages"),
        ("policy", "def late():\n    from .clock import Clock"),
        ("policy", "if TYPE_CHECKING:\n    from .clock import Clock"),
        ("policy", "from . import __version__"),
        ("frames", "from .messages import CloseCode"),
        ("heart", "from .connection import Connection"),
        ("heart", "from .stores import SessionStore"),
        ("heart", "from .touchers.aiohttp_session import AiohttpSessionToucher"),
        ("stores.sqlite", "from ..session import KeepaliveStorage"),
        ("stores.sqlite", "from .. import heart"),
        ("stores.sqlite", "import redis.asyncio"),
        ("heart", "import aiohttp"),
        ("heart", "from aiohttp.web import Request"),
        ("upgrade", "from aiohttp_session import get_session"),
        ("heart", "import time"),
        ("heart", "from time import monotonic"),
        ("clock", "import asyncio"),
        ("frames", "from socket import socket"),
        ("messages", "from pathlib import Path"),
        ("novelty", "import json"),
    ],
)
def test_a_wrong_import_is_found(tmp_path: Path, module: str, line: str) -> None:
    write(tmp_path, module, line)
    (found,) = violations(tmp_path)
    assert found.startswith(f"{module} imports ")


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("messages", "from .policy import Mode"),
        ("stores.sqlite", "from ..touchers import Left"),
        ("stores.sqlite", "from . import Record"),
        ("stores.redis", "from redis.asyncio import Redis"),
        ("stores", "def late():\n    from .sqlite import SqliteStore"),
        ("touchers.aiohttp_session", "from aiohttp_session import AbstractStorage"),
        ("clock", "import time"),
        ("heart", "import asyncio"),
        ("cli", "from . import __version__"),
    ],
)
def test_a_right_import_is_not(tmp_path: Path, module: str, line: str) -> None:
    write(tmp_path, module, line)
    assert violations(tmp_path) == []


def write(sources: Path, module: str, text: str) -> None:
    """Make a package of empty modules, and `module` with some text among them."""
    contents = {name: "" for name in modules(SOURCES)} | {
        "stores.sqlite": "",
        "stores.redis": "",
        module: text,
    }
    packages = {name.rpartition(".")[0] for name in contents if "." in name}
    for name, content in contents.items():
        path = sources.joinpath(*([] if name == PACKAGE else name.split(".")))
        path = path / "__init__.py" if name == PACKAGE or name in packages else path.with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
