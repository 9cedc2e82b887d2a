"""What Prometheus sees, of a server that does something, and of several."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keepalive import KEEPALIVE
from keepalive.metrics import Metrics
from keepalive.siblings import Siblings
from keepalive.workers import Seat

from .conftest import Browse, Serve
from .raw import DEADLINE, ping, until
from .test_server import Start, start
from .test_web import ended, make_app, signed_in

__all__ = ["start"]  # a fixture

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(text: str) -> Samples:
    """All that a scrape has, by name and labels."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation.endswith(".")
        for sample in family.samples:
            key = sample.name, frozenset(sample.labels.items())
            assert key not in found
            found[key] = sample.value
    return found


def one(found: Samples, name: str, **labels: str) -> float:
    return found[f"keepalive_{name}", frozenset(labels.items())]


async def test_the_numbers_of_a_server(serve: Serve, browse: Browse) -> None:
    app = make_app()
    port = (await serve(app)).port
    keepalive = app[KEEPALIVE]
    ann, bob = await signed_in(browse, port, "ann"), await signed_in(browse, port, "bob")
    pages = [await ann.page(), await ann.page(), await bob.page()]
    for n in range(3):
        pages[0].send(ping(n))
        await pages[0].message("beat")
    keepalive.push_user("bob", "news")
    assert (await ann.post("/keepalive/heartbeat")).json["type"] == "beat"
    await ann.post("/logout")
    for page in pages[:2]:
        await ended(page)
        page.cut()
    await until(lambda: keepalive.connected == (1, 1))
    await until(lambda: sum(keepalive.lag.seconds.counts) > 0)

    found = samples((await Metrics(keepalive, Siblings()).render()).decode())
    assert one(found, "workers") == 1
    assert one(found, "sessions") == 1
    assert one(found, "sockets") == 1
    assert one(found, "opens_total") == 3
    assert one(found, "pings_total") == 4
    assert one(found, "beats_total") == 4
    assert one(found, "waits_total") == 0
    assert one(found, "pushes_total") == 1
    assert one(found, "ends_total", reason="logout") == 1
    assert one(found, "ends_total", reason="idle") == 0
    assert one(found, "closes_total", code="4503") == 2
    assert one(found, "closes_total", code="4001") == 0
    assert one(found, "handshakes_total", result="accepted") == 3
    assert one(found, "store_up") == 1
    assert one(found, "failures_total") == 0
    batches = one(found, "batch_touches_count")
    assert 1 <= batches <= one(found, "batch_touches_sum")
    assert one(found, "store_seconds_count") == batches
    assert one(found, "store_seconds_bucket", le="+Inf") == batches
    assert 0 < one(found, "store_seconds_sum") < DEADLINE
    assert one(found, "loop_lag_seconds_count") > 0
    assert one(found, "loop_lag_max_seconds") >= 0
    assert one(found, "start_resident_memory_bytes") > 10e6
    assert found["process_resident_memory_bytes", frozenset()] > 10e6


async def test_a_close_code_that_a_page_makes_up_is_no_label(serve: Serve) -> None:
    app = make_app()
    await serve(app)
    app[KEEPALIVE].counts.closes.update({3999: 2, 3998: 1})
    found = samples((await Metrics(app[KEEPALIVE], Siblings()).render()).decode())
    assert one(found, "closes_total", code="other") == 3


async def test_a_store_that_is_down(serve: Serve, browse: Browse) -> None:
    app = make_app(sessions="memory://")
    ann = await signed_in(browse, (await serve(app)).port, "ann")
    page = await ann.page()
    await page.message("hello")
    keepalive = app[KEEPALIVE]
    await keepalive.door.close()
    (live,) = keepalive.heart.lives.values()
    live.confirmed_at -= 3600
    page.send(ping(0))
    assert (await page.message("wait"))["n"] == 0
    found = samples((await Metrics(keepalive, Siblings()).render()).decode())
    assert (one(found, "store_up"), one(found, "waits_total")) == (0, 1)
    assert one(found, "failures_total") >= 1


async def test_one_scrape_has_all_workers(serve: Serve, tmp_path: Path) -> None:
    apps = {name: make_app() for name in ("0", "1", "2")}
    seated = {name: Siblings(Seat(name, tmp_path)) for name in apps}
    metrics = {name: Metrics(app[KEEPALIVE], seated[name]) for name, app in apps.items()}
    for name, app in apps.items():
        app.cleanup_ctx.append(seated[name].run)
    served = {name: await serve(app) for name, app in apps.items()}
    for count, app in enumerate(apps.values(), 1):
        app[KEEPALIVE].counts.pings = 10**count

    async def pings(asked: str) -> dict[str, float]:
        found = samples((await metrics[asked].render()).decode())
        assert one(found, "workers") == sum(name == "keepalive_sockets" for name, _ in found)
        return {
            dict(labels)["worker"]: n
            for (name, labels), n in found.items()
            if name == "keepalive_pings_total"
        }

    for asked in apps:
        assert await pings(asked) == {"0": 10, "1": 100, "2": 1000}
    await served["1"].runner.cleanup()
    assert await pings("0") == {"0": 10, "2": 1000}
    (tmp_path / "1.sock").touch()  # as one leaves it that was killed
    assert await pings("2") == {"0": 10, "2": 1000}


async def test_a_worker_that_hangs_delays_a_scrape_but_not_for_ever(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepalive.siblings.PATIENCE", 0.1)
    app = make_app()
    await serve(app)
    asked: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_unix_server(lambda _, writer: asked.append(writer), tmp_path / "1.sock")
    found = samples((await Metrics(app[KEEPALIVE], Siblings(Seat("0", tmp_path))).render()).decode())
    assert one(found, "workers") == 1
    (writer,) = asked
    writer.close()
    hanging.close()


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


async def test_workers_that_are_processes(start: Start, browse: Browse) -> None:
    """Whichever a scrape reaches, it has both; one that is killed is missing until another came."""
    server = await start("--workers", "2")

    async def workers() -> dict[str, float]:
        browser = await browse(server.port)
        found = samples((await browser.get("/metrics")).body.decode())
        memory = {dict(labels)["worker"]: n for (name, labels), n in found.items() if "_resident" in name}
        assert len(memory) == one(found, "workers")
        return memory

    for _ in range(4):
        assert (await workers()).keys() == {"0", "1"}
    workers_of = [pid for pid in children(server.process.pid) if b"spawn_main" in cmdline(pid)]
    assert len(workers_of) == 2
    os.kill(workers_of[0], signal.SIGKILL)
    async with asyncio.timeout(8 * DEADLINE):  # another starts after a pause, and then has to import
        while (await workers()).keys() == {"0", "1"} and workers_of[0] in children(server.process.pid):
            await asyncio.sleep(0.05)
        while (await workers()).keys() != {"0", "1"}:
            await asyncio.sleep(0.05)


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()
