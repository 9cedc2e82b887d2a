"""The commands for whoever has a session: to ping it, to watch it, to hold it, and to judge the server."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path

import aiohttp
import click
from rich.console import Console
from yarl import URL

from .. import conformance
from ..client import Event, Heart, connect, faults
from ..client.address import address_of
from ..clock import SystemClock
from ..errors import KeepaliveError, SessionEnded, TlsError
from ..messages import End, encode
from ..policy import Reason
from . import show
from .cookiefile import VARIABLE, cookies_for
from .hold import CommandError, hold, notes
from .watch import Heard, as_line, as_text, time_of_day, watch, watch_live

_PATIENCE = aiohttp.ClientTimeout(total=10)

_url = click.argument("url")
_as_json = click.option("--json", "as_json", is_flag=True, help="For programs.")
_cookies = click.option(
    "--cookies",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A Netscape cookie file, as curl --cookie-jar writes it; what the server renews is written back."
    f"  Without it, the header Cookie is in {VARIABLE}.",
)


@click.command("ping")
@_url
@_cookies
@_as_json
def _ping(url: str, path: Path | None, as_json: bool) -> None:
    """Ping once, as an active user, and print the beat.

    URL is where the routes of the server are mounted, as in https://app.example/keepalive; an
    origin alone stands for its /keepalive.

    Exits with 0 for a beat, 1 when the server could not be asked, 2 for a mistake in what it was
    told, and 3 when the session is over.
    """

    async def ping() -> None:
        async with _connected(url, path) as (heart, _):
            beat = await heart.ping()
        click.echo(as_line(beat)) if as_json else show.show(as_text(beat))

    with _end_told(as_json):
        asyncio.run(ping())


@click.command("watch")
@_url
@_cookies
@_as_json
def _watch(url: str, path: Path | None, as_json: bool) -> None:
    """Show a live heart until its session ends.

    It keeps the session alive as a page does. In a pipe it prints a line for each event, and with
    --json each as an object. URL and exit codes are those of ping; Ctrl-C ends it with 130.
    """
    clock = SystemClock()

    def tell(event: Heard) -> None:
        line = as_line(event) if as_json else f"{time_of_day(clock.wall())}  {as_text(event).plain}"
        click.echo(line)

    async def run() -> None:
        console = Console(highlight=False)
        async with _connected(url, path) as (heart, http):
            if as_json or not console.is_terminal:
                await watch(heart, tell)
            else:
                await watch_live(heart, http, address_of(url), console, clock)

    with _end_told(as_json):
        asyncio.run(run())


@click.command("hold")
@_url
@_cookies
@click.argument("command", nargs=-1, required=True)
def _hold(url: str, path: Path | None, command: tuple[str, ...]) -> int:
    """Keep a session alive while COMMAND runs. If the session ends, so does COMMAND.

    Write it as in: keepalive hold https://app.example --cookies jar.txt -- pytest tests

    COMMAND is started once the server has been reached, and has our input and output; signals are passed
    on to it. If the session ends first, it gets SIGTERM, and after 10 s SIGKILL. A connection that
    breaks, or a server that restarts, is waited for. As nobody says that a user is active, a
    session of the mode activity or observe lives by the requests of COMMAND alone.

    Exits with the exit code of COMMAND, or 128 + n where signal n ended it. Before it starts, with 1
    when the server could not be reached, 2 for a mistake in what hold was told, 126 or 127 if COMMAND
    cannot be run. With 3 when the session is over, before or meanwhile.
    """

    async def run() -> int:
        async with _connected(url, path, notes(show.say)) as (heart, _):
            return await hold(heart, command)

    try:
        return asyncio.run(run())
    except CommandError as error:
        show.say(str(error))
        return error.code


@click.command("conformance")
@_url
@click.option(
    "--login", default="/login", show_default=True, help="Where a form signs in; may be relative to URL."
)
@click.option("--logout", default="/logout", show_default=True, help="Where a POST signs out.")
@click.option(
    "--data",
    "fields",
    multiple=True,
    metavar="NAME=VALUE",
    default=["name=conformance-{n}"],
    show_default=True,
    help="A field of that form; may be given several times.  {n} is another number for each user.",
)
@_as_json
def _conformance(url: str, login: str, logout: str, fields: tuple[str, ...], as_json: bool) -> int:
    """Judge a live server by the protocol.

    Plays its transcripts, and tells what was not as it should be. They speak of sessions that
    live for seconds: the server has to be started with ping_interval=1, idle_timeout=4,
    warn_before=1 and absolute_timeout=8, or multiples of them all. It then takes eight ping
    intervals.

    Exits with 0 when the server keeps to all of them, 1 when it deviates or could not be reached, 2
    for a mistake in what it was told.
    """
    pairs = [field.partition("=")[::2] for field in fields]
    numbers = count(1)
    origin = address_of(url).base.origin()

    async def sign_in(http: aiohttp.ClientSession) -> None:
        n = str(next(numbers))
        form = [(name, value.replace("{n}", n)) for name, value in pairs]
        await _post(http, origin.join(URL(login)), form)
        if not http.cookie_jar.filter_cookies(address_of(url).base):
            raise KeepaliveError(f"{login} has set no cookie", _HOW_TO_SIGN_IN)

    async def sign_out(http: aiohttp.ClientSession) -> None:
        await _post(http, origin.join(URL(logout)), [])

    verdicts = asyncio.run(conformance.check(url, sign_in=sign_in, sign_out=sign_out))
    rows = [(each.transcript.name, each.transcript.title, each.deviation) for each in verdicts]
    if as_json:
        names = ("transcript", "title", "deviation")
        click.echo(json.dumps({"verdicts": [dict(zip(names, row, strict=True)) for row in rows]}))
    else:
        show.show(show.verdicts(rows))
    return int(any(each.deviation for each in verdicts))


_HOW_TO_SIGN_IN = "say by --login and --data how to sign in, and by --logout how to sign out"


async def _post(http: aiohttp.ClientSession, url: URL, form: list[tuple[str, str]]) -> None:
    try:
        async with http.post(url, data=form, allow_redirects=False, timeout=_PATIENCE) as response:
            status = response.status
    except (aiohttp.ClientError, OSError) as error:
        raise faults.failed(url, error) from None
    if status >= 400:
        raise KeepaliveError(f"{url} answers {status}", _HOW_TO_SIGN_IN)


@asynccontextmanager
async def _connected(
    url: str, path: Path | None, on_event: Callable[[Event], object] | None = None
) -> AsyncIterator[tuple[Heart, aiohttp.ClientSession]]:
    """A heart that beats, and the session of HTTP that it has its cookies from."""
    jar = cookies_for(address_of(url).base, path, os.environ)
    async with aiohttp.ClientSession(cookie_jar=jar) as http:
        try:
            async with connect(url, session=http, on_event=on_event) as heart:
                yield heart, http
        except TlsError as error:  # its own advice is for programmers
            raise TlsError(
                error.problem,
                "mend its certificate, name that of its issuer in SSL_CERT_FILE, or write http://"
                " if it speaks no TLS",
            ) from None


@contextmanager
def _end_told(as_json: bool) -> Iterator[None]:
    """That the session is over, is an answer as well."""
    try:
        yield
    except SessionEnded as error:
        if as_json:
            click.echo(encode(End(Reason(error.reason), error.login)))
        raise


COMMANDS = [_watch, _ping, _hold, _conformance]
