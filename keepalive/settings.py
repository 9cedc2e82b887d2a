"""What the standalone server can be told: one table, and the four places that it is told in.

The command line goes before the environment, that before a TOML file, that before the default.
The fields of `Settings` are the table: the options of the command line, the names in the
environment and in the file, and docs/settings.md all follow from it.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from math import isfinite
from pathlib import Path
from typing import Any, NamedTuple

from . import __version__
from .errors import SettingError
from .limits import Limits
from .policy import Mode, Policy

_PREFIX = "KEEPALIVE_"
_NO_SETTINGS = ["KEEPALIVE_CONFIG", "KEEPALIVE_SECRET", "KEEPALIVE_ADMIN_TOKEN"]
_SERVICE_LINKS = ("tcp://", "udp://")
"""What Kubernetes puts into KEEPALIVE_PORT, for a service named keepalive, begins so."""
_SECONDS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)([smhd]?)", re.ASCII)
_OFF = ("none", "off")
_SWITCH = {"on": True, "off": False, "automatic": None}
# What may be shown of a store's URL: what stands before an @ may hold a password, and so may a
# query. Where an @ stands elsewhere it cannot be told what it belongs to, and nothing is shown.
_STORE = re.compile(r"([^:/]+://)(?:[^/?#@]*@)?([^?#@]*)(?:[?#][^@]*)?")


class Kind(NamedTuple):
    """How a setting is written."""

    unit: str
    expects: str
    """What to write, for whoever wrote something else."""
    read: Callable[[Any], Any]
    """The value for a text, or for a value of a TOML file; `ValueError` if it is none."""


class Setting(NamedTuple):
    """One line of the table."""

    name: str
    """Its key in the TOML file; option and environment variable follow from it."""
    kind: Kind
    shown: str
    """The default, as people write it."""
    help: str
    why: str
    """Why this default."""

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")

    @property
    def variable(self) -> str:
        return _PREFIX + self.name.upper()

    def write(self, value: Any) -> str:
        """A value as people write it, without the password that a store's URL may have."""
        if value == getattr(Settings(), self.name):
            return self.shown
        if self.name == "store":
            return _without_password(value)
        match self.kind.unit:
            case "duration":
                return "off" if value is None else duration(value)
            case "switch":
                return "on" if value else "off"
            case "list":
                return " ".join(value)
        return str(value)


def duration(seconds: float) -> str:
    """Seconds as people write them, in the largest unit that leaves no rest: `90s`, `30m`, `12h`."""
    for unit, size in _SECONDS.items():
        if seconds and seconds % size == 0:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:g}s"


def _without_password(url: str) -> str:
    known = _STORE.fullmatch(url)
    return known[1] + known[2] if known else url.partition(":")[0]


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError
    return value


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        if (match := _DURATION.fullmatch(value)) is None:
            raise ValueError
        return float(match[1]) * _SECONDS[match[2] or "s"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not (isfinite(value) and value >= 0):
        raise ValueError
    return float(value)


def _seconds_or_off(value: Any) -> float | None:
    return None if value in _OFF else _seconds(value)


def _switch(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or value not in _SWITCH:
        raise ValueError
    return _SWITCH[value]


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return tuple(re.split(r"[,\s]+", value.strip(", \t\n")))
    if not isinstance(value, list | tuple):
        raise ValueError
    return tuple(text for item in value for text in _texts(_text(item)))


def _whole(least: int, most: int) -> Kind:
    def read(value: Any) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError
        return value

    return Kind("number", f"a whole number from {least} to {most}", read)


_TEXT = Kind("text", "a text", _text)
_TEXTS = Kind("list", "a text or a list of texts", _texts)
_PATH = Kind("path", "the path of a file", lambda value: Path(_text(value)))
_ON_OR_OFF = Kind("switch", "on, off or automatic", _switch)
_MODE = Kind("name", "one of " + ", ".join(Mode), Mode)
_NUMBER = _whole(1, 10**9)
_SPAN = Kind("duration", "a duration such as 90 (seconds), 1.5s, 20m, 8h or 1d", _seconds)
_SPAN_OR_OFF = Kind("duration", "a duration such as 8h or 1d, or none", _seconds_or_off)


def _setting(kind: Kind, shown: str, help: str, why: str, default: Any = ...) -> Any:  # noqa: A002
    """A field of `Settings` and its line of the table; the default is `shown`, unless given apart."""
    value = kind.read(shown) if default is ... else default
    return field(default=value, metadata={"kind": kind, "shown": shown, "help": help, "why": why})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the server goes by. Durations are seconds."""

    host: str = _setting(
        _TEXT,
        "127.0.0.1",
        "The address to listen on.",
        "Nobody outside this machine gets in before you say so.",
    )
    port: int = _setting(
        _whole(0, 65535),
        "8080",
        "The TCP port to listen on; 0 takes a free one.",
        "Needs no privileges.",
    )
    store: str = _setting(
        _TEXT,
        "sqlite:///.keepalive/sessions.db",
        "Where sessions live, as a URL.",
        "Survives a restart and needs no other server.",
    )
    idle_timeout: float = _setting(
        _SPAN,
        "30m",
        "The longest time without a touch.",
        "OWASP's upper bound for applications of low risk is 15 to 30 minutes.",
    )
    absolute_timeout: float | None = _setting(
        _SPAN_OR_OFF,
        "12h",
        "The longest life since login; nothing extends it. `none` switches it off.",
        "A working day with overtime; a stolen session is worth nothing the day after.",
    )
    warn_before: float | None = _setting(
        _SPAN,
        "automatic",
        "How long ahead of a deadline the page is warned.",
        "A third of `idle_timeout`, at most 60s: people need 20s at least (WCAG 2.2.1).",
        default=None,
    )
    ping_interval: float = _setting(
        _SPAN,
        "25s",
        "How often a page pings.",
        "Stays under the 30 to 60s after which proxies cut a silent connection.",
    )
    hidden_interval: float | None = _setting(
        _SPAN,
        "automatic",
        "How often a hidden page pings, at least `ping_interval`.",
        "As `ping_interval`: a proxy cuts a silent connection, whether its page shows or not.",
        default=None,
    )
    mode: Mode = _setting(
        _MODE,
        "presence",
        "What a ping does: `presence`, an open page keeps its session alive; `activity`, only the "
        "user's input does; `observe`, only the app's own requests do.",
        "What the product is for; choose `activity` where an idle user must be signed out.",
    )
    touch_every: float | None = _setting(
        _SPAN,
        "automatic",
        "A session is touched in the store at most this often; 0 is for every ping.",
        "A twentieth of `idle_timeout`, 5 to 60s: few writes, and a deadline that is little behind.",
        default=None,
    )
    end_after_last_page: float | None = _setting(
        _SPAN_OR_OFF,
        "off",
        "How long after its last page was closed a session ends, unless a page or a request comes back; at "
        "least 5s. A reload, a lost network and a crash are no close. `off` counts no pages.",
        "Who comes back from a detour over another site expects to be signed in still.",
    )
    origin: tuple[str, ...] = _setting(
        _TEXTS,
        "unset",
        "Another origin whose pages may connect, such as `https://app.example.com`; may be repeated.",
        "The server's own origin is always allowed, and no other is trusted unasked.",
        default=(),
    )
    secure: bool | None = _setting(
        _ON_OR_OFF,
        "automatic",
        "Whether browsers reach the server by https: `on` behind a proxy that ends TLS. The cookie is then "
        "`__Host-` and `Secure`, and the server's own origin is https.",
        "A trusted proxy's word for it counts, and else what the connection is: on plain http browsers would "
        "drop such a cookie.",
    )
    trusted_proxies: tuple[str, ...] = _setting(
        _TEXTS,
        "unset",
        "An address or network of proxies, such as `10.0.0.0/8`, whose `X-Forwarded-For` and "
        "`X-Forwarded-Proto` are believed; may be repeated.",
        "Anybody can send such a header. Until one is named, private addresses have no limit of pages.",
        default=(),
    )
    hosts: tuple[str, ...] = _setting(
        _TEXTS,
        "unset",
        "A host name that requests may be for, without a port; others get 421. May be repeated.",
        "Any: a browser sends a cookie only to the host that has set it.",
        default=(),
    )
    secret_file: Path | None = _setting(
        _PATH,
        "unset",
        "A file with the keys that seal the cookies, unless `KEEPALIVE_SECRET` holds them.",
        "The keys are no setting: a command line or a settings file is too easily read by others.",
        default=None,
    )
    admin_token_file: Path | None = _setting(
        _PATH,
        "unset",
        "A file with the token for the admin API and the dashboard, at least 32 characters, unless "
        "`KEEPALIVE_ADMIN_TOKEN` holds it.",
        "Without a token there is neither. It is no setting itself, as the keys are none.",
        default=None,
    )
    drain: float = _setting(
        _SPAN,
        "10s",
        "Within how long a stop is over; all but 4.5 s of it may go by while many pages are closed in turn.",
        "Pages come back as they are closed: 11,000 need 5.5 s, at what one other process takes.",
    )
    audit: str | None = _setting(
        _TEXT,
        "unset",
        "A file for the audit log, a line of JSON for each event; `-` is standard output.",
        "Who signed in and when is personal data: it is written where you say so.",
        default=None,
    )
    pages: int | None = _setting(
        _NUMBER,
        "automatic",
        "The most pages that may be open in one process; more get 503.",
        "Nine tenths of the open files it may have: the store, the log and plain requests need the rest.",
        default=None,
    )
    pages_per_session: int = _setting(
        _NUMBER,
        "20",
        "The most pages of one session; with one more, the oldest is closed with 4505.",
        "More tabs than people have open of one app; a copied cookie cannot fill the server.",
    )
    pages_per_user: int = _setting(
        _NUMBER,
        "100",
        "The most pages of one user; more are closed with 1013.",
        "Five devices full of tabs; one account cannot fill the server.",
    )
    pages_per_address: int = _setting(
        _NUMBER,
        "200",
        "The most pages of one address (of IPv6: one /64); more get 429.",
        "An office behind one address; one machine cannot fill the server.",
    )
    handshakes_per_second: int = _setting(
        _NUMBER,
        "2000",
        "How many pages may come a second, over a long time; more get 503. Twice as many may come at once.",
        "Four fifths of what a core lets in: beats go on, and other nodes can be restarted.",
    )
    misses_per_minute: int = _setting(
        _NUMBER,
        "100",
        "How many cookies of no session an address may present; beyond, it gets 429 and the store is not "
        "asked.",
        "After an outage people come with one each; whoever guesses comes with thousands.",
    )
    messages_per_second: int = _setting(
        _NUMBER,
        "10",
        "How many messages a page may send a second, over a long time; beyond, it is closed with 4002.",
        "A page pings every 25s; five seconds' worth may come at once.",
    )
    workers: int = _setting(
        _whole(1, 1024),
        "1",
        "How many processes serve; each takes one core.",
        "One process carries tens of thousands of pages.",
    )

    def policy(self) -> Policy:
        """The lifetime rules that these settings make.

        Raises:
            SettingError: they contradict each other.
        """
        return Policy(
            idle_timeout=self.idle_timeout,
            absolute_timeout=self.absolute_timeout,
            warn_before=self.warn_before,
            ping_interval=self.ping_interval,
            hidden_interval=self.hidden_interval,
            mode=self.mode,
            touch_every=self.touch_every,
            end_after_last_page=self.end_after_last_page,
        )

    def limits(self) -> Limits:
        """The limits that these settings make."""
        return Limits(**{each.name: getattr(self, each.name) for each in fields(Limits)})

    def announcement(self, port: int) -> str:
        """What a server that listens on `port` says of itself, in a line that gives no password away."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        store = _without_password(self.store)
        absolute = "off" if self.absolute_timeout is None else duration(self.absolute_timeout)
        return (
            f"keepalive {__version__} listening on http://{host}:{port} (store {store}, "
            f"mode {self.mode}, idle {duration(self.idle_timeout)}, absolute {absolute})"
        )


SETTINGS = {each.name: Setting(each.name, **each.metadata) for each in fields(Settings)}
"""The table, by name."""


class Told(NamedTuple):
    """A setting that was told, and where."""

    value: Any
    where: str


def gather(
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    config: str | None = None,
) -> dict[str, Told]:
    """What was told, by name, each from the first source that tells it.

    Args:
        options: what the command line told, by name; a value of `None` or `()` was not told.
        environ: the environment; an empty variable tells nothing.
        config: the path of a TOML file; without it `KEEPALIVE_CONFIG` may name one.

    Raises:
        SettingError: something is misspelt or of the wrong type; names where it stands and what to
            write there.
    """
    told: dict[str, Told] = {}
    if config := config or environ.get("KEEPALIVE_CONFIG"):
        told |= _from_file(Path(config))
    told |= _from_environment(environ)
    for name, value in options.items():
        if value not in (None, ()):
            told[name] = _read(SETTINGS[name], value, SETTINGS[name].option)
    return told


def load(
    options: Mapping[str, Any],
    environ: Mapping[str, str],
    config: str | None = None,
) -> Settings:
    """Settle every setting, as `gather` finds it or by its default.

    Raises:
        SettingError: as `gather`, or something is impossible.
    """
    settings = Settings(**{name: told.value for name, told in gather(options, environ, config).items()})
    settings.policy()
    if settings.workers > 1 and settings.store.startswith("memory:"):
        raise SettingError(
            f"store {settings.store} is of one process and workers is {settings.workers}",
            "set store to sqlite:///… or workers to 1",
        )
    return settings


def _from_file(path: Path) -> dict[str, Told]:
    try:
        table = tomllib.loads(path.read_text("utf-8"))
    except OSError as error:
        raise SettingError(f"cannot read {path}: {error.strerror}", "check the path of the file") from None
    except ValueError as error:  # not TOML, or not UTF-8
        raise SettingError(f"{path} is not TOML", str(error)) from None
    for name in table:
        if name not in SETTINGS:
            near = [each for each in SETTINGS if each.startswith(name)] or get_close_matches(
                name, SETTINGS, 1
            )
            hint = f"did you mean {near[0]}" if near else f"the settings are {', '.join(SETTINGS)}"
            raise SettingError(f"{name} in {path} is no setting", hint)
    return {name: _read(SETTINGS[name], value, f"{name} in {path}") for name, value in table.items()}


def _from_environment(environ: Mapping[str, str]) -> dict[str, Told]:
    ours = {setting.variable: setting for setting in SETTINGS.values()}
    told = {}
    for variable, text in environ.items():
        if setting := ours.get(variable):
            if text and not text.startswith(_SERVICE_LINKS):
                told[setting.name] = _read(setting, text, variable)
        elif variable.startswith(_PREFIX) and variable not in _NO_SETTINGS:
            # Others use the prefix too, so only what is nearly one of ours is taken for a slip; of
            # four letters, two may be swapped.
            known = {name.removeprefix(_PREFIX): name for name in [*ours, *_NO_SETTINGS]}
            if near := get_close_matches(variable.removeprefix(_PREFIX), known, 1, cutoff=0.75):
                raise SettingError(f"{variable} is no setting", f"did you mean {known[near[0]]}")
    return told


def _read(setting: Setting, value: Any, where: str) -> Told:
    try:
        return Told(setting.kind.read(value), where)
    except ValueError:
        raise SettingError(f"{where} is {value!r}", f"give it {setting.kind.expects}") from None
