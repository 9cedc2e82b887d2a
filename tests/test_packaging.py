"""What is shipped: the wheel, the source distribution, the locks."""

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
from email.parser import Parser
from pathlib import Path
from zipfile import ZipFile

import pytest

from keepalive import __version__

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
CORE = {"aiohttp", "aiohttp-session", "cryptography", "msgspec"}
LOCKS = ["run", "test", "oldest", "bench", "fuzz"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions, built as a release is but from the environment at hand."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def wheel(built: Path) -> ZipFile:
    return ZipFile(built / f"session_keepalive-{__version__}-py3-none-any.whl")


def names(requirements: list[str]) -> set[str]:
    """The names in requirements, without versions, extras and markers."""
    return {re.split(r"[^\w.-]", requirement, maxsplit=1)[0] for requirement in requirements}


def pins(lock: str) -> dict[str, str]:
    """Each line of a lock that pins something, with the lines of its hashes and comments."""
    text = (ROOT / "requirements" / f"{lock}.txt").read_text("utf-8")
    entries = re.findall(r"^\S(?:.*\\\n)*.*$", text, re.MULTILINE)
    return {entry.partition("==")[0]: entry for entry in entries}


def test_the_wheel_holds_the_package_and_the_browser_side(wheel: ZipFile) -> None:
    held = set(wheel.namelist())
    ours = {path.relative_to(ROOT).as_posix() for path in (ROOT / "keepalive").rglob("*.py")}
    assert ours <= held
    assert "keepalive/py.typed" in held
    modules = {f"keepalive/browser/{path.name}" for path in (ROOT / "web").glob("*.js")}
    assert "keepalive/browser/define.js" in modules
    assert modules <= held
    dashboard = [path for path in (ROOT / "web" / "admin").rglob("*") if path.is_file()]
    assert {path.name for path in dashboard} >= {"index.html", "admin.js", "admin.css", "uPlot.LICENSE"}
    assert {f"keepalive/browser/{path.relative_to(ROOT / 'web').as_posix()}" for path in dashboard} <= held
    transcripts = {f"keepalive/transcripts/{path.name}" for path in (ROOT / "tests/conformance").iterdir()}
    assert len(transcripts) > 40
    assert transcripts <= held


def test_the_wheel_holds_nothing_else(wheel: ZipFile) -> None:
    dist_info = f"session_keepalive-{__version__}.dist-info/"
    for name in wheel.namelist():
        assert name.startswith(("keepalive/", dist_info)) or name == "pytest_keepalive.py"
        assert "node_modules" not in name
        assert not name.endswith((".d.ts", ".pyc"))
        assert name.startswith("keepalive/transcripts/") or not name.endswith(".json")


def test_the_wheel_brings_the_pytest_plugin(wheel: ZipFile, tmp_path: Path) -> None:
    """As an installed one does: without an option, and without an import before a test asks for it."""
    wheel.extractall(tmp_path)
    (tmp_path / "test_it.py").write_text(
        "import sys\n\ndef test_it(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.hasplugin('pytest_keepalive')\n"
        "    assert not {'keepalive', 'aiohttp_session', 'msgspec', 'cryptography'} & set(sys.modules)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:schemathesis"]
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [*command, "test_it.py"], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_metadata_name_four_requirements_and_the_extras(wheel: ZipFile) -> None:
    path = f"session_keepalive-{__version__}.dist-info/METADATA"
    metadata = Parser().parsestr(wheel.read(path).decode())
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "Apache-2.0 AND MIT"  # the latter is uPlot
    required = metadata.get_all("Requires-Dist") or []
    assert names([each for each in required if "extra ==" not in each]) == CORE
    assert set(metadata.get_all("Provides-Extra") or []) == {"server", "redis", "uvloop", "metrics", "test"}


def test_the_package_serves_the_browser_side_from_the_wheel_alone(wheel: ZipFile, tmp_path: Path) -> None:
    wheel.extractall(tmp_path)
    code = "from keepalive.assets import browser_files; print(browser_files() / 'define.js')"
    environ = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True
    )
    found = Path(done.stdout.strip())
    assert found.is_relative_to(tmp_path)
    assert found.read_bytes() == (ROOT / "web" / "define.js").read_bytes()


def test_the_source_distribution_can_be_built_and_tested(built: Path) -> None:
    top = f"session_keepalive-{__version__}/"
    with tarfile.open(built / f"session_keepalive-{__version__}.tar.gz") as archive:
        held = {name.removeprefix(top) for name in archive.getnames()}
    wanted = ["pyproject.toml", "run.py", "LICENSE", "SECURITY.md", "web/define.js", "web/package-lock.json"]
    wanted += [
        "Makefile",
        "scripts/pythons",
        "requirements/test.txt",
        "tests/test_packaging.py",
        "pytest_keepalive.py",
    ]
    assert not set(wanted) - held
    assert not [name for name in held if "node_modules" in name]


def test_every_python_that_is_claimed_is_tested() -> None:
    claimed = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    tested = re.findall(r"\bpython(3\.\d+)", (ROOT / "scripts" / "pythons").read_text("utf-8"))
    assert tested == claimed


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_hashes_and_no_address(lock: str) -> None:
    entries = pins(lock)
    assert entries.keys() >= CORE
    for entry in entries.values():
        assert re.match(r"[a-z0-9-]+==[^\s;]+ (?:; .+ )?\\\n +--hash=sha256:[0-9a-f]{64}\b", entry), entry
        assert "://" not in entry


def test_the_locks_hold_what_they_are_for() -> None:
    newest, oldest = pins("test"), pins("oldest")
    extras = PROJECT["optional-dependencies"]
    everything = PROJECT["dependencies"] + [each for extra in extras.values() for each in extra]
    assert newest.keys() >= names(everything)
    assert oldest.keys() >= names(everything)
    assert pins("run").keys() >= names(PROJECT["dependencies"] + extras["server"] + extras["uvloop"])
    for requirement in everything:
        (name,) = names([requirement])
        floor = re.search(r">=([\d.]+)", requirement)
        assert floor and oldest[name].startswith(f"{name}=={floor[1]}"), "run `make lock`"


def test_what_is_run_is_what_is_tested() -> None:
    tested = pins("test")
    for name, entry in pins("run").items():
        assert entry.split()[0] == tested[name].split()[0], "run `make lock`"


def test_the_lock_of_the_browser_side_has_hashes_and_no_address() -> None:
    packages = json.loads((ROOT / "web" / "package-lock.json").read_text("utf-8"))["packages"]
    for path, package in packages.items():
        assert "resolved" not in package
        assert not path or package["integrity"].startswith("sha512-")


def test_the_versions_agree_and_the_changelog_has_it() -> None:
    assert json.loads((ROOT / "web" / "package.json").read_text("utf-8"))["version"] == __version__
    changelog = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert re.search(rf"^## \[?(?:{re.escape(__version__)}|Unreleased)\b", changelog, re.MULTILINE)
