"""What Prometheus sees, of a server that does something, and of several; and what `deploy` makes of it."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from keepalive import KEEPALIVE
from keepalive.metrics import Metrics
from keepalive.workers import Seat

from .conftest import Browse, Browser, Serve
from .nodes import DEPLOY
from .raw import DEADLINE, ping, until
from .test_server import Start, start
from .test_server import signed_in as signed_in_at
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

    found = samples((await Metrics(keepalive).render()).decode())
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
    found = samples((await Metrics(app[KEEPALIVE]).render()).decode())
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
    found = samples((await Metrics(keepalive).render()).decode())
    assert (one(found, "store_up"), one(found, "waits_total")) == (0, 1)
    assert one(found, "failures_total") >= 1


async def test_one_scrape_has_all_workers(serve: Serve, tmp_path: Path) -> None:
    apps = {name: make_app() for name in ("0", "1", "2")}
    metrics = {name: Metrics(app[KEEPALIVE], Seat(name, tmp_path)) for name, app in apps.items()}
    for name, app in apps.items():
        app.cleanup_ctx.append(metrics[name].run)
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
    monkeypatch.setattr("keepalive.metrics.PATIENCE", 0.1)
    app = make_app()
    await serve(app)
    asked: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_unix_server(lambda _, writer: asked.append(writer), tmp_path / "1.sock")
    found = samples((await Metrics(app[KEEPALIVE], Seat("0", tmp_path)).render()).decode())
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


# What `deploy` has for them.

TEXT = {"type": "string", "minLength": 1}
SPAN = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h|d|w|y))+$"}
RULES = {
    "type": "object",
    "additionalProperties": False,
    "required": ["groups"],
    "properties": {
        "groups": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "additionalProperties": False,
                "required": ["name", "rules"],
                "properties": {
                    "name": TEXT,
                    "interval": SPAN,
                    "rules": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["alert", "expr", "labels", "annotations"],
                            "properties": {
                                "alert": {"type": "string", "pattern": "^Keepalive[A-Z][A-Za-z]+$"},
                                "expr": TEXT,
                                "for": SPAN,
                                "keep_firing_for": SPAN,
                                "labels": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "required": ["severity"],
                                    "properties": {"severity": {"enum": ["critical", "warning"]}},
                                },
                                "annotations": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "required": ["summary", "description"],
                                    "properties": {"summary": TEXT, "description": TEXT},
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}
"""https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/, and what we want of each."""
SOURCE = {
    "type": "object",
    "properties": {"type": {"const": "prometheus"}, "uid": {"const": "${datasource}"}},
}
BOARD = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "uid": {"type": "string", "pattern": "^[a-zA-Z0-9_-]{1,40}$"},
        "title": TEXT,
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {
            "type": "array",
            "minItems": 1,
            "items": {
                "type": "object",
                "required": [
                    "id",
                    "type",
                    "title",
                    "description",
                    "gridPos",
                    "datasource",
                    "targets",
                    "fieldConfig",
                ],
                "properties": {
                    "id": {"type": "integer", "minimum": 1},
                    "type": {"enum": ["stat", "timeseries"]},
                    "title": TEXT,
                    "description": TEXT,
                    "datasource": SOURCE,
                    "gridPos": {
                        "type": "object",
                        "required": ["x", "y", "w", "h"],
                        "additionalProperties": {"type": "integer", "minimum": 0, "maximum": 60},
                    },
                    "targets": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["refId", "expr", "datasource", "legendFormat"],
                            "properties": {
                                "refId": {"pattern": "^[A-Z]$"},
                                "expr": TEXT,
                                "datasource": SOURCE,
                            },
                        },
                    },
                    "fieldConfig": {
                        "type": "object",
                        "required": ["defaults", "overrides"],
                        "properties": {"defaults": {"type": "object", "required": ["unit"]}},
                    },
                },
            },
        },
        "templating": {"type": "object", "required": ["list"]},
    },
}
"""As far as we use https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/."""
# Of PromQL, what the expressions use.
WORDS = {
    *("sum", "min", "max", "by", "and", "offset", "on", "group_left"),
    *("rate", "increase", "histogram_quantile", "max_over_time"),
}
FROM_PROMETHEUS = {"instance", "job"}


def rules() -> list[dict[str, Any]]:
    return [rule for group in alerts()["groups"] for rule in group["rules"]]


def alerts() -> Any:
    return yaml.safe_load((DEPLOY / "alerts.yaml").read_text())


def board() -> Any:
    return json.loads((DEPLOY / "grafana.json").read_text())


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in board()["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


def test_the_alert_rules_are_such() -> None:
    jsonschema_rs.validate(RULES, alerts())
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    broken = alerts()
    broken["groups"][0]["rules"][0]["exp"] = "a slip"
    with pytest.raises(jsonschema_rs.ValidationError):
        jsonschema_rs.validate(RULES, broken)


def test_the_dashboard_is_one() -> None:
    jsonschema_rs.validate(BOARD, board())
    panels = board()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        x, y, w, h = (panel["gridPos"][name] for name in "xywh")
        assert x + w <= 24
        cells = {(column, row) for column in range(x, x + w) for row in range(y, y + h)}
        assert not cells & taken, panel["title"]
        taken |= cells


def unknown(expression: str, found: Samples) -> Iterator[str]:
    """What an expression names and no scrape has."""
    values: dict[str, dict[str, set[str]]] = {}
    for name, labels in found:
        for label, value in labels:
            values.setdefault(name, {}).setdefault(label, set()).add(value)
        values.setdefault(name, {})
    labels_told = {label for each in values.values() for label in each} | FROM_PROMETHEUS
    for label in re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression):
        yield from (f"label {each}" for each in re.split(r",\s*", label) if each not in labels_told)
    for metric, matchers in re.findall(r"([a-z_]+)\{([^}]*)\}", expression):
        for label, operator, wanted in re.findall(r'(\w+)(=~|!=|=)"([^"]*)"', matchers):
            if label in FROM_PROMETHEUS:
                continue
            has = values.get(metric, {}).get(label, set())
            parts = wanted.split("|") if operator == "=~" else [wanted]
            yield from (f"{metric} with {label} {each}" for each in parts if each not in has)
    bare = re.sub(r"\{[^}]*\}|\[[^]]*\]|\b(by|on)\s*\([^)]*\)", " ", expression)
    for word in re.findall(r"\b[a-zA-Z_]\w*", re.sub(r"\boffset\s+\w+", "", bare)):
        if word not in WORDS and word not in values and word != "up":
            yield word


async def test_every_name_in_deploy_is_in_a_scrape(start: Start, browse: Browse) -> None:
    server = await start()
    ann: Browser = await signed_in_at(browse, server.port)
    await (await ann.page()).message("hello")
    found = samples((await ann.get("/metrics")).body.decode())
    wrong = {where: list(unknown(text, found)) for where, text in expressions()}
    assert {where: names for where, names in wrong.items() if names} == {}
    assert list(unknown('sum by (cod) (rate(keepalive_close_total{reason="idle"}[5m]))', found)) == [
        "label cod",
        "keepalive_close_total with reason idle",
        "keepalive_close_total",
    ]


def test_every_metric_of_ours_is_shown_or_watched() -> None:
    """A number that nobody looks at need not be told."""
    told = " ".join(text for _, text in expressions())
    source = (Path(__file__).parent.parent / "keepalive" / "metrics.py").read_text()
    names: Iterable[str] = re.findall(r'"(keepalive_\w+)"', source)
    assert [name for name in names if name not in told] == ["keepalive_build_info"]
