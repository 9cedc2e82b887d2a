"""The command line: serves, and helps those who operate a server.

Whatever goes wrong is told in one line that says what to change: exit code 2 for a mistake in
what we were told, 1 for what keeps us from doing it, and 3 for a session that is over.
"""

import asyncio
import errno
import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial, wraps
from pathlib import Path
from socket import socket
from typing import Any

import click
from cryptography.fernet import Fernet
from rich.console import RenderableType

from . import __version__, server
from .admin import find_token
from .admin.access import TOKEN
from .commands import client, doctor, show
from .commands.finding import Finding, Level
from .commands.remote import HERE, Remote, path_of
from .errors import KeepaliveError, SessionEnded, SettingError
from .seal import ENVIRONMENT
from .settings import SETTINGS, Settings, gather, load
from .workers import bind, supervise

_CODES = {SettingError: 2, SessionEnded: 3}
_UNWRITABLE = {errno.ENOSPC, errno.EPIPE, errno.EIO}
_Answer = tuple[Any, RenderableType]
"""What was answered, and how people see it."""


def main(arguments: Sequence[str], *, demo: bool = False) -> int:
    """Run the command line; see `keepalive.__main__.main`."""
    return _told(partial(_command.main, list(arguments), "keepalive", standalone_mode=False, obj=demo))


@click.group(invoke_without_command=True, context_settings={"max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def _command(context: click.Context) -> None:
    """Keeps browser sessions alive over one WebSocket a page."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each line of the table."""
    for setting in reversed(SETTINGS.values()):
        command = click.option(
            setting.option,
            setting.name,
            metavar=setting.kind.unit.upper(),
            multiple=setting.kind.unit == "list",
            help=f"{setting.help.replace('`', '')}  [{setting.variable}; default: {setting.shown}]",
        )(command)
    return command


_config = click.option("--config", metavar="PATH", help="A TOML file with settings.  [KEEPALIVE_CONFIG]")
_as_json = click.option("--json", "as_json", is_flag=True, help="For programs.")


@_command.command("serve")
@_settings
@_config
@click.pass_obj
def _serve(demo: bool, /, config: str | None, **options: Any) -> int:
    """Serve until told to stop by SIGTERM or SIGINT.

    An option goes before the environment variable named beside it, that before the TOML file.
    Durations are written 90, 90s, 1.5s, 20m, 8h or 1d. The keys that seal the cookies come from
    KEEPALIVE_SECRET or --secret-file.
    """
    settings = load(options, os.environ, config)
    for advice in settings.policy().advice():
        show.say(f"note: {advice}")
    if settings.workers > 1:
        work = partial(_work, settings, demo)
        return supervise(
            work,
            settings.workers,
            settings.host,
            settings.port,
            drain=settings.drain,
            ready=partial(_announce, settings),
            say=show.say,
        )
    with bind(settings.host, settings.port) as listener:
        ready = partial(_announce, settings, listener.getsockname()[1])
        return server.run(settings, demo=demo, listen=listener, ready=ready)


def _work(settings: Settings, demo: bool, listener: socket, ready: Callable[[], None]) -> int:
    """What each worker does, in a process of its own."""
    return _told(partial(server.run, settings, demo=demo, listen=listener, ready=ready))


# For whoever sets a server up.


@_command.command("keygen")
@_as_json
def _keygen(as_json: bool) -> None:
    """Print a new random key for KEEPALIVE_SECRET, or for an admin token."""
    key = Fernet.generate_key().decode()
    click.echo(json.dumps({"key": key}) if as_json else key)


@_command.command("check-config")
@_settings
@_config
@_as_json
def _check_config(config: str | None, as_json: bool, **options: Any) -> None:
    """Print every setting, and where it was told; exit with 2 if the server would refuse them."""
    settings = load(options, os.environ, config)
    told = gather(options, os.environ, config)
    rows = []
    for name, setting in SETTINGS.items():
        where = told[name].where if name in told else "default"
        rows.append((name, setting.write(getattr(settings, name)), where))
    # Never more than that, of what must stay secret.
    rows += [
        (name, "set" if os.environ.get(name) else "unset", "environment") for name in (ENVIRONMENT, TOKEN)
    ]
    if as_json:
        click.echo(json.dumps({name: {"value": value, "told_by": where} for name, value, where in rows}))
    else:
        show.show(show.settings(rows))
    for advice in settings.policy().advice():
        show.say(f"note: {advice}")


@_command.command("doctor")
@_settings
@_config
@click.option(
    "--proxy",
    "proxies",
    multiple=True,
    metavar="PATH",
    help="The configuration of nginx or HAProxy in front.",
)
@click.option("--url", metavar="URL", help="Where browsers reach the server: tries it, as a browser would.")
@_as_json
def _doctor(
    config: str | None, proxies: tuple[str, ...], url: str | None, as_json: bool, **options: Any
) -> int:
    """Look for what is wrong with a set-up, and say what to do; exit with 1 if anything is red.

    Takes the settings that `serve` takes. It changes nothing, and may run beside the server.
    """

    async def examine() -> list[Finding]:
        try:
            settings = load(options, os.environ, config)
        except SettingError as error:
            return [doctor.refused(error)]
        case = doctor.Case(settings, os.environ, tuple(map(Path, proxies)), url)
        return [finding async for finding in doctor.examine(case)]

    found = asyncio.run(examine())
    if as_json:
        click.echo(json.dumps({"findings": [finding._asdict() for finding in found]}))
    else:
        show.show(show.findings(found))
    return int(any(finding.level is Level.RED for finding in found))


# For whoever looks after a server that runs.


def _remote(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the server that it is about."""

    @click.option("--url", default=HERE, show_default=True, help="The server.")
    @click.option(
        "--admin-token-file", "path", metavar="PATH", help=f"A file with its admin token.  [{TOKEN}]"
    )
    @_as_json
    @wraps(command)
    def asked(url: str, path: str | None, as_json: bool, **options: Any) -> None:
        token = find_token(os.environ, None if path is None else Path(path))
        if token is None:
            raise SettingError("there is no admin token", f"set {TOKEN} or --admin-token-file")
        remote = Remote(url, token)
        if remote.exposes_token:
            show.say(
                "note: the admin token goes over the network in the clear: use https, or a tunnel by ssh"
            )
        answer, shown = command(remote, **options)
        if as_json:
            click.echo(json.dumps(answer))
        else:
            show.show(shown)

    return asked


@_command.group("sessions")
def _sessions() -> None:
    """List, explain and end the sessions of a running server."""


@_sessions.command("list")
@click.option("--user", help="Exactly this user's.")
@click.option("--address", help="With a page from there.")
@click.option("--search", help="In the user's name, or how the id, or an address, begins.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1), help="Most rows.")
@_remote
def _list(remote: Remote, limit: int, **wanted: str | None) -> _Answer:
    """List the sessions with pages on the server, at any of its workers."""
    rows, rest = remote.sessions(limit, **wanted)
    return {"sessions": rows, **rest}, show.sessions(rows, rest)


@_sessions.command("show")
@click.argument("session")
@_remote
def _show(remote: Remote, session: str) -> _Answer:
    """Tell why a session is alive, and until when. SESSION is its id, or how that begins."""
    told = remote.ask("GET", path_of("sessions", remote.session(session)))
    return told, show.session(told)


@_sessions.command("end")
@click.argument("session", required=False)
@click.option("--user", help="All sessions of this user instead.")
@_remote
def _end(remote: Remote, session: str | None, user: str | None) -> _Answer:
    """End a session, or all of a user's, everywhere and for ever."""
    if (session is None) is (user is None):
        raise click.UsageError("Name either a session or a --user.")
    if session is not None:
        told = remote.ask("DELETE", path_of("sessions", remote.session(session)))
    else:
        told = remote.ask("DELETE", path_of("users", user or "", "sessions"))
    return told, f"ended: {told['ended']}"


@_command.command("stats")
@_remote
def _stats(remote: Remote) -> _Answer:
    """Show what goes on, on each node; rates are those of the last five seconds."""
    told = remote.ask("GET", "/stats")
    return told, show.stats(told)


# For whoever has a session.

for _each in client.COMMANDS:
    _command.add_command(_each)


def _told(action: Callable[[], Any]) -> int:
    """The exit code of an action, or of what kept it from being done, which is told."""
    try:
        code: int | None = action()
    except click.ClickException as error:
        show.say(error.format_message())
        return 2
    except click.Abort:  # Ctrl-C, before anybody was there to hear it
        return 130
    except KeepaliveError as error:
        show.say(str(error))
        return next((code for kind, code in _CODES.items() if isinstance(error, kind)), 1)
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        show.say(f"the output could not be written ({error.strerror})")
        with Path(os.devnull).open("w") as nowhere:  # for what Python still has of it when it leaves
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return 1
    return code or 0


def _announce(settings: Settings, port: int) -> None:
    click.echo(settings.announcement(port))
