"""What `deploy` has beside the proxies, which test_nodes.py runs: checked by those who read it."""

import re
import subprocess
from pathlib import Path
from shutil import which

import pytest

from .nodes import DEPLOY


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
