"""Four sources, one table, and errors that say where and what."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepalive import __version__
from keepalive.errors import SettingError
from keepalive.limits import Limits
from keepalive.policy import Mode, Policy
from keepalive.settings import SETTINGS, Settings, duration, load

DOCS = Path(__file__).parent.parent / "docs" / "settings.md"

TEXTS = {
    "host": "0.0.0.0",
    "port": "0",
    "store": "memory://",
    "idle_timeout": "20m",
    "absolute_timeout": "none",
    "warn_before": "1m",
    "ping_interval": "1.5s",
    "hidden_interval": "3m",
    "mode": "activity",
    "touch_every": "0",
    "end_after_last_page": "20s",
    "origin": "https://a.example, https://b.example:8443",
    "secure": "on",
    "trusted_proxies": "10.0.0.0/8, ::1",
    "hosts": "a.example b.example",
    "secret_file": "keys.txt",
    "admin_token_file": "token.txt",
    "drain": "20s",
    "pages": "1000",
    "pages_per_session": "2",
    "pages_per_user": "3",
    "pages_per_address": "4",
    "handshakes_per_second": "5",
    "misses_per_minute": "6",
    "messages_per_second": "7",
    "audit": "audit.log",
    "workers": "1",
}
SETTLED = Settings(
    host="0.0.0.0",
    port=0,
    store="memory://",
    idle_timeout=1200.0,
    absolute_timeout=None,
    warn_before=60.0,
    ping_interval=1.5,
    hidden_interval=180.0,
    mode=Mode.ACTIVITY,
    touch_every=0.0,
    end_after_last_page=20.0,
    origin=("https://a.example", "https://b.example:8443"),
    secure=True,
    trusted_proxies=("10.0.0.0/8", "::1"),
    hosts=("a.example", "b.example"),
    secret_file=Path("keys.txt"),
    admin_token_file=Path("token.txt"),
    drain=20.0,
    pages=1000,
    pages_per_session=2,
    pages_per_user=3,
    pages_per_address=4,
    handshakes_per_second=5,
    misses_per_minute=6,
    messages_per_second=7,
    audit="audit.log",
    workers=1,
)


def told(options: dict[str, object] | None = None, **environ: str) -> Settings:
    return load(options or {}, environ)


def refusal(options: dict[str, object] | None = None, config: Path | None = None, **environ: str) -> str:
    with pytest.raises(SettingError) as caught:
        load(options or {}, environ, str(config) if config else None)
    return str(caught.value)


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "keepalive.toml"
    path.write_text(text, "utf-8")
    return path


def test_no_setting_is_forgotten_here() -> None:
    assert TEXTS.keys() == SETTINGS.keys()


def test_defaults_are_those_of_the_policy() -> None:
    settings = told()
    assert settings == Settings()
    assert settings.policy() == Policy()
    assert settings.host == "127.0.0.1"


def test_every_setting_by_option() -> None:
    assert told(dict(TEXTS)) == SETTLED


def test_every_setting_by_environment() -> None:
    assert load({}, {SETTINGS[name].variable: text for name, text in TEXTS.items()}) == SETTLED


def test_every_setting_by_file(tmp_path: Path) -> None:
    path = toml(tmp_path, "".join(f"{name} = '{text}'\n" for name, text in TEXTS.items()))
    assert load({}, {}, str(path)) == SETTLED
    assert load({}, {"KEEPALIVE_CONFIG": str(path)}) == SETTLED


def test_a_file_may_use_numbers_and_lists(tmp_path: Path) -> None:
    path = toml(
        tmp_path, 'port = 81\nidle_timeout = 600\nping_interval = 2.5\norigin = ["https://a", "https://b"]'
    )
    settings = load({}, {}, str(path))
    assert (settings.port, settings.idle_timeout, settings.ping_interval) == (81, 600.0, 2.5)
    assert settings.origin == ("https://a", "https://b")


def test_options_go_before_the_environment_before_the_file_before_the_default(tmp_path: Path) -> None:
    path = str(toml(tmp_path, "port = 1\nworkers = 2\nhost = 'a'"))
    environ = {"KEEPALIVE_PORT": "3", "KEEPALIVE_WORKERS": "4"}
    settings = load({"port": "5"}, environ, path)
    assert (settings.port, settings.workers, settings.host) == (5, 4, "a")
    assert settings.store == Settings().store


def test_the_named_file_goes_before_that_of_the_environment(tmp_path: Path) -> None:
    path = str(toml(tmp_path, "port = 1"))
    assert load({}, {"KEEPALIVE_CONFIG": str(tmp_path / "missing.toml")}, path).port == 1


def test_what_was_not_told_is_left_to_the_next_source() -> None:
    assert told({"port": None, "origin": ()}, KEEPALIVE_PORT="7", KEEPALIVE_HOST="").port == 7


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5s", 1.5),
        ("20m", 1200),
        ("8h", 28800),
        ("1d", 86400),
        ("0", 0),
        ("0.5h", 1800),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    assert SETTINGS["touch_every"].kind.read(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "s", "-1", "1 m", "1w", "1h30m", "1e3", "inf", "nan", "٣", "none", "off", "1.m"]
)
def test_what_is_no_duration(text: str) -> None:
    message = refusal({"idle_timeout": text})
    assert message.startswith(f"--idle-timeout is {text!r}: give it a duration such as 90 (seconds), 1.5s")


@pytest.mark.parametrize("value", ["true", "-1", "inf", "nan", "[]", "{}", "1979-05-27"])
def test_a_wrong_type_in_a_file_is_named_with_the_file(tmp_path: Path, value: str) -> None:
    path = toml(tmp_path, f"idle_timeout = {value}")
    assert refusal(config=path).startswith(f"idle_timeout in {path} is ")


def test_off_is_for_what_can_be_switched_off() -> None:
    assert told({"absolute_timeout": "off"}).policy().absolute_timeout is None
    assert told({"end_after_last_page": "off"}).policy().end_after_last_page is None
    assert told({"end_after_last_page": "1m"}).policy().end_after_last_page == 60
    assert "--ping-interval is 'off'" in refusal({"ping_interval": "off"})


@pytest.mark.parametrize(
    ("written", "secure"),
    [("'on'", True), ("'off'", False), ("'automatic'", None), ("true", True), ("false", False)],
)
def test_switches(tmp_path: Path, written: str, secure: bool | None) -> None:
    assert load({}, {}, str(toml(tmp_path, f"secure = {written}"))).secure is secure


def test_an_option_leads_back_to_automatic() -> None:
    assert told({"secure": "automatic"}, KEEPALIVE_SECURE="on").secure is None


@pytest.mark.parametrize("text", ["", "yes", "1", "true", "ON"])
def test_what_is_no_switch(text: str) -> None:
    assert refusal({"secure": text}) == f"--secure is {text!r}: give it on, off or automatic"


@pytest.mark.parametrize("port", ["-1", "65536", "http", "8080.0", "1_000", "", " 80"])
def test_what_is_no_port(port: str) -> None:
    assert refusal({"port": port}) == f"--port is {port!r}: give it a whole number from 0 to 65535"


@pytest.mark.parametrize(
    "line",
    [
        "port = true",
        "port = 80.5",
        "host = 1",
        "origin = [1]",
        "origin = ['']",
        "mode = []",
        "secure = 1",
        "secure = []",
    ],
)
def test_other_wrong_types_in_a_file(tmp_path: Path, line: str) -> None:
    path = toml(tmp_path, line)
    assert refusal(config=path).startswith(f"{line.split(maxsplit=1)[0]} in {path} is ")


def test_an_unknown_key_in_a_file_names_the_nearest(tmp_path: Path) -> None:
    path = toml(tmp_path, "idle_timout = 5")
    assert refusal(config=path) == f"idle_timout in {path} is no setting: did you mean idle_timeout"
    path = toml(tmp_path, "[xyzzy]")
    assert refusal(config=path).endswith("the settings are " + ", ".join(SETTINGS))


def test_keys_of_cookies_do_not_belong_in_a_file(tmp_path: Path) -> None:
    path = toml(tmp_path, "secret = 'abc'")
    message = refusal(config=path)
    assert "did you mean secret_file" in message
    assert "abc" not in message


def test_a_slip_in_the_environment_is_told_but_strangers_are_let_be() -> None:
    for slip, meant in {
        "KEEPALIVE_IDLE_TIMOUT": "KEEPALIVE_IDLE_TIMEOUT",
        "KEEPALIVE_PROT": "KEEPALIVE_PORT",
        "KEEPALIVE_HSOT": "KEEPALIVE_HOST",
        "KEEPALIVE_MDOE": "KEEPALIVE_MODE",
        "KEEPALIVE_ORIGINS": "KEEPALIVE_ORIGIN",
        "KEEPALIVE_SECRETS": "KEEPALIVE_SECRET",
        "KEEPALIVE_CONIFG": "KEEPALIVE_CONFIG",
    }.items():
        assert refusal(None, None, **{slip: "5"}) == f"{slip} is no setting: did you mean {meant}"
    strangers = {
        "KEEPALIVE_SECRET": "x",
        "KEEPALIVE_SERVICE_HOST": "x",
        "KEEPALIVE_SERVICE_PORT": "x",
        "KEEPALIVE_PORT_80_TCP_ADDR": "x",
        "KEEPALIVE_TIMEOUT": "x",
        "KEEPALIVE_VERSION": "x",
        "KEEPALIVED_ROUTER_ID": "x",
    }
    assert told(None, **strangers) == Settings()
    # Kubernetes has this for a service named keepalive.
    assert told(None, KEEPALIVE_PORT="tcp://10.0.0.1:80") == Settings()
    assert "KEEPALIVE_PORT is 'http://x'" in refusal(KEEPALIVE_PORT="http://x")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    assert (
        refusal(config=missing)
        == f"cannot read {missing}: No such file or directory: check the path of the file"
    )
    assert " is not TOML: " in refusal(config=toml(tmp_path, "port 80"))
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b"host = '\xe4'")
    assert " is not TOML: " in refusal(config=latin)


def test_every_rule_of_a_lifetime_reaches_the_policy() -> None:
    assert SETTLED.policy() == Policy(
        idle_timeout=1200, absolute_timeout=None, warn_before=60, ping_interval=1.5, hidden_interval=180,
        mode="activity", touch_every=0, end_after_last_page=20,
    )  # fmt: skip


def test_every_limit_reaches_the_server() -> None:
    assert told().limits() == Limits()
    assert SETTLED.limits() == Limits(
        pages=1000, pages_per_session=2, pages_per_user=3, pages_per_address=4,
        handshakes_per_second=5, misses_per_minute=6, messages_per_second=7,
    )  # fmt: skip


def test_impossible_policies_are_refused() -> None:
    assert refusal({"idle_timeout": "10s"}).startswith("idle_timeout (10 s) is shorter than three times")


def test_memory_is_of_one_process() -> None:
    assert "workers is 2" in refusal({"store": "memory://", "workers": "2"})


@given(st.one_of(st.integers(0, 10**9), st.floats(0, 1e5).map(lambda number: round(number, 1))))
def test_a_duration_reads_back_as_it_was_written(seconds: float) -> None:
    assert SETTINGS["touch_every"].kind.read(duration(seconds)) == pytest.approx(seconds)


def test_the_announcement() -> None:
    assert told().announcement(80) == (
        f"keepalive {__version__} listening on http://127.0.0.1:80 "
        "(store sqlite:///.keepalive/sessions.db, mode presence, idle 30m, absolute 12h)"
    )
    settings = told({"host": "::1", "absolute_timeout": "none", "idle_timeout": "90", "mode": "observe"})
    assert settings.announcement(80).endswith("mode observe, idle 90s, absolute off)")
    assert "http://[::1]:80 " in settings.announcement(80)


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("redis://:hush@a:6379/0", "redis://a:6379/0"),
        ("rediss://user:hush@a/0?password=hush", "rediss://a/0"),
        ("redis://a/0?password=hush", "redis://a/0"),
        ("redis+sentinel://user:hush@a:1,b:2/main/0", "redis+sentinel://a:1,b:2/main/0"),
        ("redis://:hu/sh@a/0", "redis"),
        ("redis://:hu?sh@a/0", "redis"),
        ("redis://a/0?password=hu@hush", "redis"),
        ("redis://:hu@sh@a/0", "redis"),
        ("sqlite:////srv/keepalive.db", "sqlite:////srv/keepalive.db"),
        ("memory://", "memory://"),
    ],
)
def test_the_announcement_gives_no_password_away(store: str, shown: str) -> None:
    assert f"(store {shown}, mode" in told({"store": store}).announcement(80)


def test_the_documentation_lists_the_table() -> None:
    rows = [
        f"| `{each.name}` | `{each.option}` | `{each.variable}` | {each.kind.unit} "
        f"| `{each.shown}` | {each.help} | {each.why} |"
        for each in SETTINGS.values()
    ]
    written = re.findall(r"^\| `.*$", DOCS.read_text("utf-8"), re.MULTILINE)
    assert written == rows, "docs/settings.md should say:\n" + "\n".join(rows)
