"""The command line: reads the settings, takes the port, serves.

Whatever goes wrong is told in one line that says what to change: exit code 2 for a mistake in
what we were told, 1 for what keeps us from serving.
"""

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from socket import socket
from typing import Any

import click

from . import __version__, server
from .errors import KeepaliveError, SettingError
from .settings import SETTINGS, Settings, load
from .workers import bind, supervise


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


def _settings(command: Callable[..., int]) -> Callable[..., int]:
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


@_command.command("serve")
@_settings
@click.option("--config", metavar="PATH", help="A TOML file with settings.  [KEEPALIVE_CONFIG]")
@click.pass_obj
def _serve(demo: bool, /, config: str | None, **options: Any) -> int:
    """Serve until told to stop by SIGTERM or SIGINT.

    An option goes before the environment variable named beside it, that before the TOML file.
    Durations are written 90, 90s, 1.5s, 20m, 8h or 1d. The keys that seal the cookies come from
    KEEPALIVE_SECRET or --secret-file.
    """
    settings = load(options, os.environ, config)
    for advice in settings.policy().advice():
        _say(f"note: {advice}")
    if settings.workers > 1:
        work = partial(_work, settings, demo)
        return supervise(
            work,
            settings.workers,
            settings.host,
            settings.port,
            drain=settings.drain,
            ready=partial(_announce, settings),
            say=_say,
        )
    with bind(settings.host, settings.port) as listener:
        ready = partial(_announce, settings, listener.getsockname()[1])
        return server.run(settings, demo=demo, listen=listener, ready=ready)


def _work(settings: Settings, demo: bool, listener: socket, ready: Callable[[], None]) -> int:
    """What each worker does, in a process of its own."""
    return _told(partial(server.run, settings, demo=demo, listen=listener, ready=ready))


def _told(action: Callable[[], Any]) -> int:
    """The exit code of an action, or of what kept it from being done, which is told."""
    try:
        code: int | None = action()
    except click.ClickException as error:
        _say(error.format_message())
        return 2
    except click.Abort:  # Ctrl-C, before anybody was there to hear it
        return 130
    except KeepaliveError as error:
        _say(str(error))
        return 2 if isinstance(error, SettingError) else 1
    return code or 0


def _announce(settings: Settings, port: int) -> None:
    click.echo(settings.announcement(port))


def _say(line: str) -> None:
    sys.stderr.write(f"keepalive: {' '.join(line.split())}\n")
    sys.stderr.flush()
