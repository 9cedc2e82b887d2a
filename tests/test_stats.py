"""One node's figures, and what the difference of two looks says."""

import msgspec
import pytest

from keepalive.histogram import BOUNDS, Histogram
from keepalive.lag import Lag
from keepalive.policy import Policy, Reason
from keepalive.stats import Figures, Rates, rates, teller

from .fakes import World


def times(*pairs: tuple[float, int]) -> list[int]:
    histogram = Histogram()
    for seconds, many in pairs:
        histogram.add(seconds, many)
    return histogram.counts


async def test_a_node_tells_what_it_has_and_what_has_been() -> None:
    world = await World(Policy(touch_every=0)).start()
    lag = Lag()
    lag.observe(0.25, 0.0)
    tell = teller(world.heart, lag, world.clock.monotonic, lambda: True)
    page = await world.page("ann")
    await world.page("bob")
    for _ in range(3):
        page.ping()
    await world.advance(10)
    await world.end("bob", Reason.REVOKED)
    page.leave()
    await world.advance(1)
    told = tell()
    assert (told.up, told.lag, told.draining) == (11.0, 0.25, True)
    assert (told.pages, told.sessions, told.pings, told.beats, told.opens) == (0, 0, 3, 3, 2)
    assert told.ends == {"revoked": 1}
    assert told.closes == {"1001": 1}
    assert sum(told.answers) == 3
    assert sum(told.store) == told.batches >= 1
    assert msgspec.json.decode(msgspec.json.encode(told), type=Figures) == told
    await world.stop()


async def test_close_codes_that_pages_make_up_do_not_make_a_report_long() -> None:
    """It goes to all nodes once a second, and to each dashboard in a push, which has a limit."""
    world = await World().start()
    tell = teller(world.heart, Lag(), world.clock.monotonic, lambda: True)
    world.heart.counts.closes.update(range(3000, 5000))
    closes = tell().closes
    assert len(closes) < 30
    assert sum(closes.values()) == 2000
    assert closes["other"] > 1900
    assert closes["4001"] == 1
    await world.stop()


@pytest.mark.parametrize(("touch_every", "slow"), [(0.0, 3), (60.0, 0)])
async def test_a_beat_that_waited_for_the_store_took_as_long(touch_every: float, slow: int) -> None:
    """What is answered from the store's last word did not wait, and counts all the same."""
    world = await World(Policy(touch_every=touch_every)).start()
    tell = teller(world.heart, Lag(), world.clock.monotonic, lambda: False)
    pages = [await world.page(name) for name in ("ann", "bob", "cid")]
    world.toucher.latency = 0.25
    for page in pages:
        page.ping()
    await world.advance(1)
    answers = tell().answers
    assert sum(answers) == 3
    assert sum(count for count, bound in zip(answers, BOUNDS, strict=False) if bound >= 0.25) == slow
    await world.stop()


def test_rates_are_differences() -> None:
    before = Figures(name="one", up=10.0, beats=100, waits=3, ends={"idle": 2}, answers=times((0.4, 50)))
    after = Figures(
        name="one",
        up=15.0,
        pages=7,
        sessions=5,
        beats=200,
        waits=3,
        ends={"idle": 3, "logout": 4},
        closes={"1000": 2},
        answers=times((0.4, 50), (0.001, 100)),
        store=times((0.02, 10)),
    )
    told = rates([(before, after)])
    assert (told.pages, told.sessions, told.beats, told.waits) == (7, 5, 20.0, 0.0)
    assert (told.ends, told.closes) == ({"idle": 1, "logout": 4}, {"1000": 2})
    assert told.p99 is not None and told.p99 < 0.0015  # the slow ones were before
    assert told.store_p50 is not None and 0.014 < told.store_p50 < 0.029


def test_nodes_add_up() -> None:
    one = (
        Figures(name="one", up=1.0),
        Figures(name="one", up=3.0, pages=4, beats=20, answers=times((0.001, 99))),
    )
    two = Figures(name="two", up=7.0), Figures(name="two", up=8.0, pages=2, beats=5, answers=times((0.3, 1)))
    told = rates([one, two])
    assert (told.pages, told.beats) == (6, 15.0)
    assert told.p99 is not None and told.p99 < 0.0015
    assert rates([two]).p50 == pytest.approx(0.3, rel=0.42)


def test_a_node_that_has_just_come_has_no_rate_yet() -> None:
    """All that it has done since its start has not been done in this second."""
    node = Figures(name="one", up=100.0, pages=3, beats=5000)
    assert rates([(node, node)]) == Rates(pages=3)
    again = Figures(name="one", up=1.0, pages=1, beats=2)  # started anew under its old name
    assert rates([(node, again)]) == Rates(pages=1)


def test_without_nodes_there_is_nothing() -> None:
    assert rates([]) == Rates()
