"""What `deploy` has beside the proxies, which test_nodes.py runs: checked by those who read it.

Where nothing here runs containers, their steps are taken one by one, on this machine.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree, ignore_patterns, which
from signal import SIGTERM
from typing import Any
from urllib.request import urlopen

import pytest
from cryptography.fernet import Fernet
from yaml import safe_load

from keepalive.settings import Settings

from .nodes import DEPLOY, ROOT
from .ports import free_port
from .redis import await_true


def analyze(*arguments: object) -> "subprocess.CompletedProcess[str]":
    program = which("systemd-analyze")
    if program is None:
        pytest.skip("there is no systemd-analyze")
    command = [program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_the_unit_is_one_that_systemd_understands(tmp_path: Path) -> None:
    unit = tmp_path / "keepalive.service"
    text = (DEPLOY / "keepalive.service").read_text()
    unit.write_text(text.replace("/opt/keepalive/bin/keepalive", "/bin/true"))
    done = analyze("verify", unit)
    assert (done.returncode, done.stderr) == (0, "")
    unit.write_text(text.replace("NoNewPrivileges", "NoNewPrivilege"))
    assert "'NoNewPrivilege'" in analyze("verify", unit).stderr


def test_the_unit_leaves_little_to_an_attacker() -> None:
    done = analyze("security", "--offline=yes", DEPLOY / "keepalive.service")
    found = re.search(r"Overall exposure level for keepalive.service: (\d+\.\d+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) < 2


# Containers


def compose() -> Any:
    return safe_load((DEPLOY / "compose.yaml").read_text())


def test_the_compose_file_fits_the_schema_of_compose(tmp_path: Path) -> None:
    pytest.importorskip("check_jsonschema", reason="check-jsonschema has the schema; pip install it")

    def check(path: Path) -> "subprocess.CompletedProcess[str]":
        command = [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            str(path),
        ]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    done = check(DEPLOY / "compose.yaml")
    assert done.returncode == 0, done.stdout
    wrong = tmp_path / "compose.yaml"
    wrong.write_text((DEPLOY / "compose.yaml").read_text().replace("stop_grace_period", "grace_period"))
    assert "'grace_period' " in check(wrong).stdout


def test_the_compose_file_names_what_there_is() -> None:
    services = compose()["services"]
    for name in ("one", "two"):
        node = services[name]
        assert (DEPLOY / node["build"]["context"] / node["build"]["dockerfile"]).is_file()
        known = {f"KEEPALIVE_{each}".upper() for each in Settings.__dataclass_fields__}
        assert set(node["environment"]) - {"KEEPALIVE_SECRET"} <= known
        assert set(node["depends_on"]) <= set(services)
    for each in services.values():
        for volume in each.get("volumes", []):
            source = volume.partition(":")[0]
            assert source in compose()["volumes"] or (DEPLOY / source).is_file()


def test_its_nginx_finds_both_nodes(tmp_path: Path) -> None:
    shell, option, line = compose()["services"]["nginx"]["command"]
    rewrite, serve = line.split(" && exec ")
    assert serve.startswith("nginx -c /tmp/nginx.conf ")
    rewrite = rewrite.replace("/tmp/", f"{tmp_path}/").replace(" /nginx.conf", f" {DEPLOY}/nginx.conf")
    subprocess.run([shell, option, rewrite], check=True, timeout=10)
    written = (tmp_path / "nginx.conf").read_text()
    assert re.findall(r"^ *server (\S+) max_fails=0;", written, re.MULTILINE) == ["one:8080", "two:8080"]
    assert "listen 8080;" in written


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_steps_of_the_dockerfile(tmp_path: Path, redis_url: str) -> None:
    """All but what needs a container: the base image, the user, and the copy from one stage to the next."""
    source, home, port = tmp_path / "src", tmp_path / "opt", free_port()
    source.mkdir()
    entry, health, skipped = [], [], []
    places = {
        "/opt/keepalive": str(home),
        "127.0.0.1:8080": f"127.0.0.1:{port}",
        "python -m": f"{sys.executable} -m",
    }

    def here(text: str) -> str:
        for place, own in places.items():
            text = text.replace(place, own)
        return text

    for line in (DEPLOY / "Dockerfile").read_text().splitlines():
        step, _, rest = line.partition(" ")
        if step == "COPY" and not rest.startswith("--from"):
            *names, target = rest.split()
            for name in names:
                if (ROOT / name).is_dir():
                    copytree(
                        ROOT / name, source / target, ignore=ignore_patterns("node_modules", "__pycache__")
                    )
                else:
                    (source / target).mkdir(exist_ok=True)
                    copy(ROOT / name, source / target)
        elif step == "RUN" and not rest.startswith("useradd"):
            done = subprocess.run(
                ["sh", "-c", here(rest)], cwd=source, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, done.stderr
        elif step == "ENTRYPOINT":
            entry = json.loads(here(rest))
        elif step == "HEALTHCHECK":
            health = json.loads(here(rest.partition("CMD ")[2]))
        elif line and step != "#":
            skipped.append(shlex.split(line))
    others = "FROM WORKDIR FROM COPY RUN USER EXPOSE STOPSIGNAL"
    assert [step for step, *_ in skipped] == others.split()

    environ = {name: value for name, value in os.environ.items() if not name.startswith("KEEPALIVE_")}
    environ["KEEPALIVE_SECRET"] = Fernet.generate_key().decode()
    environ["KEEPALIVE_STORE"] = f"{redis_url}?prefix={tmp_path.name}:"
    environ["KEEPALIVE_PORT"] = str(port)
    with subprocess.Popen(entry, env=environ, cwd=tmp_path, stdout=subprocess.DEVNULL) as node:
        try:
            await_true(
                lambda: subprocess.run(health, capture_output=True, check=False).returncode == 0, within=20
            )
            with urlopen(f"http://127.0.0.1:{port}/readyz") as ready:
                assert ready.status == 200
            node.send_signal(SIGTERM)
            assert node.wait(20) == 0
        finally:
            node.kill()
    assert subprocess.run(health, capture_output=True, check=False).returncode != 0
