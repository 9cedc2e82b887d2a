"""The pytest plugin of session-keepalive: fixtures for tests of session rules, in virtual time.

docs/testing.md tells how to use them. Nothing is imported here before a test asks for it: the plugin
is loaded wherever the package is installed. That is also why it is not a part of the package.
"""

from collections.abc import AsyncIterator, Generator
from contextlib import AsyncExitStack
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from keepalive import testing
    from keepalive.testing.kit import Kit


def pytest_configure(config: pytest.Config) -> None:
    """Add what depends on which other plugins there are."""
    ours = ModuleType("keepalive_fixtures")
    asyncio = config.pluginmanager.get_plugin("asyncio")
    if asyncio is not None:  # which closes only what is marked as its own, unless its mode is `auto`
        vars(ours)["_keepalive_stack"] = asyncio.fixture(name="_keepalive_stack")(_stack)
    others = [plugin for plugin, _ in config.pluginmanager.list_plugin_distinfo()]
    for name, alias in (("clock", _clock), ("page", _page)):
        if not any(hasattr(plugin, name) for plugin in others):  # pytest-playwright has a `page`, too
            vars(ours)[name] = pytest.fixture(name=name)(alias)
    config.pluginmanager.register(ours)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what the pages and their servers have said to each other, where a test has failed."""
    report = yield
    kit: Kit | None = getattr(item, "funcargs", {}).get("_keepalive_kit")
    if report.when == "call" and report.failed and kit is not None and kit.pages:
        report.sections.append(("keepalive timeline", kit.report()))
    return report


async def _stack() -> AsyncIterator[AsyncExitStack]:
    async with AsyncExitStack() as stack:
        yield stack


_keepalive_stack_of_anyio = pytest.fixture(_stack, name="_keepalive_stack_of_anyio")


@pytest.fixture
def _keepalive_kit(request: pytest.FixtureRequest) -> "Kit":
    """What the fixtures of a test share; closed by whoever runs its event loop."""
    from keepalive.testing.kit import Kit  # noqa: PLC0415 - not before it is needed

    anyio = "anyio_backend" in request.fixturenames
    return Kit(request.getfixturevalue("_keepalive_stack_of_anyio" if anyio else "_keepalive_stack"))


@pytest.fixture
def keepalive_clock(_keepalive_kit: "Kit", monkeypatch: pytest.MonkeyPatch) -> "testing.VirtualClock":
    """Virtual time: `await clock.advance(minutes=31)` runs every timer in order.

    All that goes by the package's own clock goes by this one, and so does `time.time`, by which cookies
    age.
    """
    return _keepalive_kit.make_virtual(monkeypatch.setattr)


@pytest.fixture
def keepalive_server(_keepalive_kit: "Kit") -> "testing.KeepaliveServer":
    """`server = await keepalive_server(policy=Policy(…))`: a real server on a free port."""
    from keepalive.testing import KeepaliveServer  # noqa: PLC0415

    return KeepaliveServer(_keepalive_kit)


@pytest.fixture
def keepalive_app(_keepalive_kit: "Kit") -> "testing.KeepaliveApp":
    """`keepalive_app(app, policy=Policy(…))`: the sessions of an app, before the test serves it."""
    from keepalive.testing import KeepaliveApp  # noqa: PLC0415

    return KeepaliveApp(_keepalive_kit)


@pytest.fixture
def keepalive_page(_keepalive_kit: "Kit") -> "testing.OpenPage":
    """`tab = await page("ann")`: a fake browser tab of a user who is signed in."""
    from keepalive.testing import OpenPage  # noqa: PLC0415

    return OpenPage(_keepalive_kit)


@pytest.fixture
def store_fault(_keepalive_kit: "Kit") -> "testing.StoreFault":
    """`with store_fault("down"): …`: the session store is down, slow, or read-only."""
    from keepalive.testing import StoreFault  # noqa: PLC0415

    return StoreFault(_keepalive_kit.stores)


@pytest.fixture
def assert_ends(_keepalive_kit: "Kit") -> "testing.AssertEnds":
    """`await assert_ends("idle")`: the sessions of the pages are over for this reason; `None`: they live."""
    from keepalive.testing import AssertEnds  # noqa: PLC0415

    return AssertEnds(_keepalive_kit)


def _clock(keepalive_clock: "testing.VirtualClock") -> "testing.VirtualClock":
    """Virtual time: `await clock.advance(minutes=31)` runs every timer in order."""
    return keepalive_clock


def _page(keepalive_page: "testing.OpenPage") -> "testing.OpenPage":
    """`tab = await page("ann")`: a fake browser tab of a user who is signed in."""
    return keepalive_page
