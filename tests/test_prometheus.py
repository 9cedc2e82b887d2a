"""What `deploy` has for Prometheus and Grafana, put to a real Prometheus and its promtool.

Each alert has a scene, which promtool plays in virtual time; and each expression is asked of a Prometheus
that scrapes a server of ours.
"""

import asyncio
import json
import re
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from shutil import copy, which
from textwrap import dedent
from time import monotonic
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
import yaml
from aiohttp import ClientError, ClientSession

from .conftest import Browse
from .nodes import DEPLOY, ROOT
from .ports import free_port
from .raw import DEADLINE
from .test_server import Start, signed_in, start

__all__ = ["start"]  # a fixture

Vector = list[dict[str, Any]]
"""What Prometheus answers to an expression: its series, each with labels and value."""


def rules() -> dict[str, Any]:
    """The alert rules by name."""
    (group,) = yaml.safe_load((DEPLOY / "alerts.yaml").read_text())["groups"]
    return {rule["alert"]: rule for rule in group["rules"]}


def configuration(folder: Path) -> Any:
    """The part of prometheus.yml that alerts.yaml gives at its top, for a folder that gets the rules, too."""
    copy(DEPLOY / "alerts.yaml", folder)
    example = re.findall(r"^#(  .*)$", (DEPLOY / "alerts.yaml").read_text(), re.MULTILINE)
    return yaml.safe_load(dedent("\n".join(example)))


def board() -> Any:
    return json.loads((DEPLOY / "grafana.json").read_text())


def promtool(*arguments: object) -> None:
    program = which("promtool")
    assert program is not None, "install prometheus"
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_configuration_and_its_rules_are_such(tmp_path: Path) -> None:
    config = tmp_path / "prometheus.yml"
    config.write_text(yaml.safe_dump(configuration(tmp_path)))
    promtool("check", "config", "--lint=all", "--lint-fatal", config)
    promtool("check", "rules", "--lint=all", "--lint-fatal", tmp_path / "alerts.yaml")


def test_an_alert_says_how_grave_it_is_and_what_to_do() -> None:
    for name, rule in rules().items():
        assert re.fullmatch("Keepalive[A-Z][A-Za-z]+", name)
        assert rule["labels"].keys() == {"severity"}
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert all(rule["annotations"].values())


# The alerts


class Scene(NamedTuple):
    """Series at steps of 15 seconds, in promtool's notation, and what an alert makes of them.

    `ill` is a node that it is for; `well` one that comes as near as may be, and is never told of.
    """

    alert: str
    series: Mapping[str, str]
    """Of the job `keepalive`, unless they name another."""
    silent: tuple[str, ...]
    """When it does not fire."""
    fires: tuple[str, ...] = ()
    """When it does, once."""
    labels: Mapping[str, str] = {}
    """Those that it has then, beside its severity."""
    summary: str = ""


SCENES = {
    "a server is gone": Scene(
        "KeepaliveDown",
        {
            'up{instance="ill"}': "1x3 0x40",
            'up{instance="well"}': "1x3 0x3 1x40",
            'up{instance="other",job="node"}': "0x40",
        },
        silent=("45s", "1m45s"),
        fires=("2m", "10m"),
        labels={"instance": "ill", "job": "keepalive"},
        summary="ill does not answer.",
    ),
    "one of two workers has no store": Scene(
        "KeepaliveStoreDown",
        {
            'keepalive_store_up{instance="ill",worker="0"}': "1x40",
            'keepalive_store_up{instance="ill",worker="1"}': "1x3 0x20 1x20",
            'keepalive_store_up{instance="well",worker="0"}': "1x3 0x1 1x40",
        },
        silent=("45s", "1m15s", "7m"),
        fires=("1m30s", "6m"),
        labels={"instance": "ill"},
        summary="ill gets no answer from its session store.",
    ),
    "two batches in a hundred are slow": Scene(
        "KeepaliveStoreSlow",
        {
            'keepalive_store_seconds_bucket{instance="ill",worker="0",le="0.1024"}': "0+98x60",
            'keepalive_store_seconds_bucket{instance="ill",worker="0",le="0.2048"}': "0+100x60",
            'keepalive_store_seconds_bucket{instance="ill",worker="0",le="+Inf"}': "0+100x60",
            'keepalive_store_seconds_bucket{instance="well",worker="0",le="0.0128"}': "0+199x60",
            'keepalive_store_seconds_bucket{instance="well",worker="0",le="0.2048"}': "0+200x60",
            'keepalive_store_seconds_bucket{instance="well",worker="0",le="+Inf"}': "0+200x60",
            'keepalive_store_seconds_bucket{instance="idle",worker="0",le="0.2048"}': "9x60",
            'keepalive_store_seconds_bucket{instance="idle",worker="0",le="+Inf"}': "9x60",
        },
        silent=("5m",),
        fires=("5m15s", "15m"),
        labels={"instance": "ill"},
        summary="The session store of ill takes 153.6ms for one batch in a hundred.",
    ),
    "one of two workers is late": Scene(
        "KeepaliveLoopLag",
        {
            'keepalive_loop_lag_max_seconds{instance="ill",worker="0"}': "0.01x40",
            'keepalive_loop_lag_max_seconds{instance="ill",worker="1"}': "0.3x40",
            'keepalive_loop_lag_max_seconds{instance="well",worker="0"}': "0.25x40",
        },
        silent=("1m45s",),
        fires=("2m", "10m"),
        labels={"instance": "ill"},
        summary="The event loop of ill is up to 300ms late.",
    ),
    "a worker stood still, and goes on": Scene(
        "KeepaliveLoopStalled",
        {
            'keepalive_loop_lag_max_seconds{instance="ill",worker="1"}': "0x3 1.5x1 0x40",
            'keepalive_loop_lag_max_seconds{instance="well",worker="0"}': "1x40",
        },
        silent=("45s", "1m30s"),
        fires=("1m", "1m15s"),
        labels={"instance": "ill"},
        summary="The event loop of ill stood still for 1.5s.",
    ),
    "eight times as many sessions end": Scene(
        "KeepaliveEndsSpike",
        {
            'keepalive_ends_total{instance="ill",reason="idle",worker="0"}': "0+1x280 286+6x80",
            'keepalive_ends_total{instance="ill",reason="absolute",worker="1"}': "0x280 2+2x80",
            'keepalive_ends_total{instance="ill",reason="unknown",worker="1"}': "0x360",
        },
        silent=("1h10m", "1h12m"),
        fires=("1h18m", "1h22m"),
        summary="Five times as many sessions end under open pages as in the hour before.",
    ),
    "a thousand sessions are lost at once": Scene(
        "KeepaliveEndsSpike",
        {'keepalive_ends_total{instance="ill",reason="unknown",worker="0"}': "0x280 1000x80"},
        silent=("1h10m", "1h12m", "1h16m"),
        fires=("1h13m", "1h14m"),
        summary="Five times as many sessions end under open pages as in the hour before.",
    ),
    "four times as many sessions end": Scene(
        "KeepaliveEndsSpike",
        {'keepalive_ends_total{instance="well",reason="idle",worker="0"}': "0+1x280 284+4x80"},
        silent=("1h15m", "1h20m", "1h25m"),
    ),
    "many times as many sessions end, and still few": Scene(
        "KeepaliveEndsSpike",
        {'keepalive_ends_total{instance="well",reason="idle",worker="0"}': "0x280 2+2x80"},
        silent=("1h15m", "1h20m", "1h25m"),
    ),
    "everybody goes home": Scene(
        "KeepaliveEndsSpike",
        {
            'keepalive_ends_total{instance="well",reason="logout",worker="0"}': "0+1x280 330+50x80",
            'keepalive_ends_total{instance="well",reason="idle",worker="0"}': "0+1x360",
        },
        silent=("1h15m", "1h20m", "1h25m"),
    ),
    "sixty pages of a hundred are dropped": Scene(
        "KeepalivePagesDropped",
        {
            'keepalive_sockets{instance="ill",worker="0"}': "60x60",
            'keepalive_sockets{instance="ill",worker="1"}': "40x60",
            'keepalive_closes_total{code="1006",instance="ill",worker="0"}': "0+1x60",
            'keepalive_closes_total{code="4001",instance="ill",worker="0"}': "0+1x60",
            'keepalive_closes_total{code="4003",instance="ill",worker="1"}': "0+1x60",
            'keepalive_sockets{instance="well",worker="0"}': "450x60",
            'keepalive_closes_total{code="1006",instance="well",worker="0"}': "0+3x60",
            'keepalive_closes_total{code="1001",instance="well",worker="0"}': "0+100x60",
        },
        silent=("4m",),
        fires=("8m", "15m"),
        labels={"instance": "ill"},
        summary="ill lost 60 pages within 5 minutes without a goodbye.",
    ),
    "two handshakes of three are refused": Scene(
        "KeepaliveHandshakesRefused",
        {
            'keepalive_handshakes_total{instance="ill",result="accepted",worker="0"}': "0+1x80",
            'keepalive_handshakes_total{instance="ill",result="origin",worker="0"}': "0+1x80",
            'keepalive_handshakes_total{instance="ill",result="origin",worker="1"}': "0+1x80",
            'keepalive_handshakes_total{instance="well",result="accepted",worker="0"}': "0+100x80",
            'keepalive_handshakes_total{instance="well",result="origin",worker="0"}': "0+10x80",
        },
        silent=("5m",),
        fires=("12m", "20m"),
        labels={"instance": "ill", "result": "origin"},
        summary="ill turns pages away: origin.",
    ),
    "a worker has nine files of ten": Scene(
        "KeepaliveFilesRunOut",
        {
            'process_open_fds{instance="ill",worker="0"}': "10x40",
            'process_max_fds{instance="ill",worker="0"}': "1000x40",
            'process_open_fds{instance="ill",worker="1"}': "900x40",
            'process_max_fds{instance="ill",worker="1"}': "1000x40",
            'process_open_fds{instance="well",worker="0"}': "800x40",
            'process_max_fds{instance="well",worker="0"}': "1000x40",
            'process_open_fds{instance="other",job="node"}': "999x40",
            'process_max_fds{instance="other",job="node"}': "1000x40",
        },
        silent=("4m45s",),
        fires=("5m", "10m"),
        labels={"instance": "ill"},
        summary="ill has used 90% of the files that it may open.",
    ),
    "a worker does not come back": Scene(
        "KeepaliveWorkerMissing",
        {
            'keepalive_workers{instance="ill"}': "2x20 1x60",
            'keepalive_workers{instance="well"}': "2x20 1x19 2x60",
        },
        silent=("5m", "10m"),
        fires=("10m15s", "20m"),
        labels={"instance": "ill", "job": "keepalive"},
        summary="ill lacks a worker: 1 left.",
    ),
    "lines are lost": Scene(
        "KeepaliveLogDropped",
        {
            'keepalive_log_lines_dropped_total{instance="ill",log="audit",worker="0"}': "0x3 0+1x80 80x60",
            'keepalive_log_lines_dropped_total{instance="well",log="server",worker="0"}': "9x160",
        },
        silent=("45s", "35m"),
        fires=("15m", "20m"),
        labels={"instance": "ill", "log": "audit"},
        summary="ill could not write 40 lines of its audit log.",
    ),
}


def of_the_job(series: str) -> str:
    return series if "job=" in series else series.replace("{", '{job="keepalive",')


def test_every_alert_has_a_scene_in_which_it_fires() -> None:
    assert {scene.alert for scene in SCENES.values() if scene.fires} == rules().keys()


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES)
def test_an_alert_fires_when_it_should_and_only_then(scene: Scene, tmp_path: Path) -> None:
    copy(DEPLOY / "alerts.yaml", tmp_path)
    rule = rules()[scene.alert]
    firing = {
        "exp_labels": rule["labels"] | scene.labels,
        "exp_annotations": rule["annotations"] | {"summary": scene.summary},
    }
    played = {
        "interval": "15s",
        "input_series": [
            {"series": of_the_job(name), "values": values} for name, values in scene.series.items()
        ],
        "alert_rule_test": [
            {"alertname": scene.alert, "eval_time": at, "exp_alerts": [firing] if at in scene.fires else []}
            for at in scene.silent + scene.fires
        ],
    }
    test = {"rule_files": ["alerts.yaml"], "evaluation_interval": "15s", "tests": [played]}
    (tmp_path / "scene.yaml").write_text(json.dumps(test))
    promtool("test", "rules", tmp_path / "scene.yaml")


# The dashboard

TEXT = {"type": "string", "minLength": 1}
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


def test_every_metric_of_ours_is_shown_or_watched() -> None:
    """A number that nobody looks at need not be told."""
    targets = [target["expr"] for panel in board()["panels"] for target in panel["targets"]]
    told = " ".join([*targets, *(rule["expr"] for rule in rules().values())])
    source = (ROOT / "keepalive" / "metrics.py").read_text()
    names: list[str] = re.findall(r'"(keepalive_\w+)"', source)
    assert [name for name in names if name not in told] == ["keepalive_build_info"]


# A Prometheus that scrapes


class Prometheus:
    """Asks one by its HTTP API.

    Args:
        http: does the asking.
        url: where it listens.
    """

    def __init__(self, http: ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def is_ready(self) -> bool:
        try:
            async with self._http.get(f"{self._url}/-/ready") as answer:
                return answer.status == 200
        except ClientError:
            return False

    async def get(self, path: str, **parameters: str) -> Any:
        """What it answers; an expression that it does not understand is none."""
        async with self._http.get(f"{self._url}/api/v1/{path}", params=parameters) as answer:
            said = await answer.json()
        assert said["status"] == "success", (parameters, said["error"])
        assert not said.get("warnings"), (parameters, said["warnings"])
        return said["data"]

    async def ask(self, expression: str) -> Vector:
        """The series of an expression; those that are no number are none."""
        found: Vector = (await self.get("query", query=expression))["result"]
        return [series for series in found if series["value"][1] != "NaN"]

    async def state(self, alert: str) -> str:
        """Of an alert: `inactive`, `pending`, `firing`; `unknown` as long as its rule was not evaluated."""
        (group,) = (await self.get("rules"))["groups"]
        (rule,) = [rule for rule in group["rules"] if rule["name"] == alert]
        assert rule["health"] != "err", rule
        return str(rule["state"] if rule["health"] == "ok" else "unknown")


@asynccontextmanager
async def prometheus(folder: Path, config: Any) -> AsyncIterator[Prometheus]:
    """A Prometheus of this test alone, which keeps what it has in a folder."""
    program = which("prometheus")
    assert program is not None, "install prometheus"
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        program,
        f"--config.file={folder}/prometheus.yml",
        f"--storage.tsdb.path={folder}/data",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
        stdout=DEVNULL,
    )
    try:
        async with ClientSession() as http:
            running = Prometheus(http, f"http://127.0.0.1:{port}")
            async with asyncio.timeout(4 * DEADLINE):
                while not await running.is_ready():
                    assert process.returncode is None, "it did not start; it says why on standard error"
                    await asyncio.sleep(0.05)
            yield running
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def shown(node: str) -> Iterator[tuple[str, str, set[str]]]:
    """All that the dashboard asks of a node: under which name, what, and which labels it tells."""
    (instance,) = [each for each in board()["templating"]["list"] if each["type"] == "query"]
    assert instance["query"] == "label_values(keepalive_sockets, instance)"
    chosen = re.escape(node).replace("\\", "\\\\")  # as Grafana does it where several can be chosen
    for panel in board()["panels"]:
        for target in panel["targets"]:
            expression = target["expr"].replace("$instance", chosen).replace("$__rate_interval", "1m")
            told = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            yield f"{panel['title']}: {target['legendFormat']}", expression, told


def watched() -> Iterator[tuple[str, str, set[str]]]:
    """What the alerts compare, which there is also while all is well."""
    for name, rule in rules().items():
        compared, *_ = re.split(r" (?:==|<|>) ", rule["expr"])
        yield name, compared, set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))


def played() -> Iterator[tuple[str, str, set[str]]]:
    """The series of the scenes, of whichever node and worker."""
    for scene in SCENES.values():
        for series in scene.series:
            if 'job="node"' not in series:
                yield series, of_the_job(re.sub(r'(instance|worker)="\w+"', r'\1!=""', series)), set()


async def test_a_prometheus_that_scrapes_two_workers_can_answer_all(
    start: Start, browse: Browse, tmp_path: Path
) -> None:
    """Each expression has data, with the labels that are told of it; and a server that stops is noticed."""
    port = free_port()
    node = f"127.0.0.1:{port}"
    config = configuration(tmp_path)
    (job,) = config["scrape_configs"]
    job |= {"scrape_interval": "500ms", "static_configs": [{"targets": [node]}]}
    config["global"] = {"evaluation_interval": "500ms"}
    async with prometheus(tmp_path, config) as running:  # it takes five seconds until its first scrape
        server = await start("--workers", "2", "--port", str(port))
        ann = await signed_in(browse, port)
        await (await ann.page()).message("hello")
        assert (await ann.page(Origin="https://elsewhere.example")).status == 403

        wanted = [*shown(node), *watched(), *played()]
        deadline = monotonic() + 6 * DEADLINE
        while True:
            await ann.post("/keepalive/heartbeat")  # one batch for the store
            found = {name: await running.ask(expression) for name, expression, _ in wanted}
            missing = [name for name, series in found.items() if not series]
            if not missing:
                break
            assert monotonic() < deadline, missing
            await asyncio.sleep(0.1)
        for name, _, labels in wanted:
            assert all(labels <= series["metric"].keys() for series in found[name]), name
        for name, figure in {"Open pages: pages": 1, "Sessions: sessions": 1, "Workers: workers": 2}.items():
            assert [float(series["value"][1]) for series in found[name]] == [figure], name
        assert await running.get("label/instance/values", **{"match[]": "keepalive_sockets"}) == [node]
        for rule in rules().values():
            await running.ask(rule["expr"])

        async def turns(state: str) -> None:
            async with asyncio.timeout(4 * DEADLINE):
                while await running.state("KeepaliveDown") != state:
                    await asyncio.sleep(0.05)

        await turns("inactive")
        await server.stop()
        await turns("pending")
