"""What is left to chance, so that hearts which came together do not stay together."""

from typing import Any

import pytest
from aiohttp import ClientSession, CookieJar

import keepalive
from keepalive import HeartPool, Mode
from keepalive.client import State
from keepalive.client.machine import Closed, Fact, Machine
from keepalive.messages import Hello, Wait

from .conftest import Serve
from .raw import DEADLINE
from .test_client import World, sign_in
from .test_client_pool import jars

HELLO = Hello(interval=25, idle_timeout=1800, expires_in=1800, warn_before=60, mode=Mode.PRESENCE, spread=20)


def opened(random: float = 0.5) -> Machine:
    """At 0."""
    machine = Machine()
    machine.take(Fact.START, 0.0, random)
    machine.take(HELLO, 0.0, random)
    return machine


@pytest.mark.parametrize(("random", "pause"), [(0.0, 22.5), (0.5, 25.0), (0.999, 27.495)])
def test_pings_are_an_interval_apart_ten_percent_more_or_less(random: float, pause: float) -> None:
    machine = opened(random)
    machine.take(Fact.TICK, machine.due, random)  # the socket has proved itself
    assert machine.due == pytest.approx(pause)


@pytest.mark.parametrize(("random", "pause"), [(0.0, 4.0), (0.5, 4.2), (0.999, 4.3996)])
def test_after_a_wait_the_next_ping_comes_up_to_a_tenth_later(random: float, pause: float) -> None:
    machine = opened()
    machine.take(Wait(1, retry_in=4.0, why="store"), 0.0, random)
    assert machine.due == pytest.approx(pause)


@pytest.mark.parametrize(
    ("random", "first", "second"), [(0.0, 0.5, 0.5), (0.5, 10.0, 1.0), (0.999, 19.98, 1.998)]
)
def test_it_comes_back_after_any_part_of_its_pause(random: float, first: float, second: float) -> None:
    """The first time of what the server has said, as everybody may be under way; then of 2 s, 4 s, …"""
    machine = opened()
    machine.take(Closed(1006), 0.0, random)
    retry = machine.due
    assert retry == pytest.approx(first)
    machine.take(Fact.TICK, retry, random)
    assert machine.state is State.CONNECTING
    machine.take(Closed(1006), retry, random)
    assert machine.due - retry == pytest.approx(second)


@pytest.mark.parametrize("client", ["connect", "pool"])
async def test_it_is_drawn_anew_each_time(client: str, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[float] = []
    take = Machine.take

    def note(self: Machine, event: Any, now: float, random: float) -> Any:
        drawn.append(random)
        return take(self, event, now, random)

    monkeypatch.setattr(Machine, "take", note)
    world = World()
    world.port = (await serve(world.app)).port
    if client == "connect":
        async with ClientSession(cookie_jar=CookieJar(unsafe=True)) as http:
            await sign_in(http, world)
            async with keepalive.connect(world.url, session=http) as heart:
                await heart.ping()
    else:
        async with HeartPool(world.url) as pool:
            for cookies in await jars(world, 3):
                pool.add(cookies)
            await pool.opened(DEADLINE)
    assert len(drawn) == len(set(drawn)) >= 4
    assert all(0 <= each < 1 for each in drawn)
