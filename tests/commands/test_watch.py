"""What `keepalive watch` shows in a terminal."""

import asyncio
import io

import pytest
from aiohttp import ClientSession, CookieJar
from rich.console import Console

import keepalive
from keepalive import SessionEnded
from keepalive.client import State, StateChange
from keepalive.client.address import address_of
from keepalive.clock import ManualClock, SystemClock
from keepalive.commands.watch import REMEMBERED, THUMP, View, as_text, rules_of, watch_live
from keepalive.messages import Beat, Push, Warning
from keepalive.policy import Reason

from ..conftest import Serve
from ..raw import until
from ..test_client import World, sign_in


def shown(view: View, *, styles: bool = False) -> list[str]:
    console = Console(width=84, file=io.StringIO(), record=True, force_terminal=True)
    console.print(view)
    return [line.rstrip() for line in console.export_text(styles=styles).splitlines()]


async def test_the_screen(serve: Serve) -> None:
    world = World()
    world.port = (await serve(world.app)).port
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        await sign_in(http, world)
        address = address_of(world.url.replace("//", "//ann:secret@"))  # which nobody is shown
        async with keepalive.connect(world.url, session=http) as heart:
            view = View(heart, address, await rules_of(http, address), SystemClock())
            view.add(Beat(3, 1799.5, 43000.0))
            for n in range(REMEMBERED):
                view.add(Push({"n": n, "long": "x" * 100}))
            lines = shown(view)
            assert lines[0].startswith(f"♥  {world.url}/keepalive/ ")
            assert lines[0].endswith(" open")
            assert lines[2].startswith("expires in  29m 59s  ━━━")
            assert lines[3] == "ends in     11h 59m  whatever happens"
            assert lines[4] == "mode        presence  lives by any page that answers"
            assert lines[5] == "beats       1  the last one 0s ago"
            pushes = lines[7:]
            assert len(pushes) == REMEMBERED
            assert all(len(line) == 84 and line.endswith("…") for line in pushes)
            unknown = shown(View(heart, address, None, SystemClock()))
            assert unknown[2] == "expires in  29m 59s    unless it is extended"
            assert unknown[4] == lines[4], "the heart knows its mode by itself"


async def test_a_beat_is_seen_for_a_moment(serve: Serve) -> None:
    world = World()
    world.port = (await serve(world.app)).port
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        await sign_in(http, world)
        async with keepalive.connect(world.url, session=http) as heart:
            clock = ManualClock()
            view = View(heart, address_of(world.url), None, clock)
            still = shown(view, styles=True)[0]
            view.add(Beat(1, 1.0))
            assert shown(view, styles=True)[0] != still
            clock.advance(THUMP)
            assert shown(view, styles=True)[0] == still


async def test_live_until_the_end(serve: Serve) -> None:
    world = World()
    world.port = (await serve(world.app)).port
    screen = io.StringIO()
    console = Console(width=84, file=screen, force_terminal=True)
    async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
        await sign_in(http, world)
        async with keepalive.connect(world.url, session=http) as heart:
            watching = asyncio.create_task(
                watch_live(heart, http, address_of(world.url), console, SystemClock())
            )
            await until(lambda: "beat 1" in screen.getvalue())
            async with http.post(f"{world.url}/logout"):
                pass
            with pytest.raises(SessionEnded):
                await watching
    assert "ended" in screen.getvalue()
    assert screen.getvalue().endswith("\x1b[?25h"), "the cursor is there again"


def test_an_event_in_a_line() -> None:
    lines = [
        (Beat(1, 60.0), "♥ beat 1: expires in 1m 00s"),
        (
            Warning(60.0, Reason.IDLE, extendable=True),
            "! expires in 1m 00s by its idle timeout; a ping or a request extends it",
        ),
        (
            Warning(60.0, Reason.ABSOLUTE, extendable=False),
            "! expires in 1m 00s by its absolute timeout; nothing extends it",
        ),
        (Push("\x1b[31m[red]"), '→ push "\\u001b[31m[red]"'),
        (StateChange(State.WAITING, State.OPEN), "· waiting"),
    ]
    for event, line in lines:
        assert as_text(event).plain == line  # type: ignore[arg-type]
