"""`keepalive sessions` and `keepalive stats`, at a server that runs, and where there is none."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from keepalive import KEEPALIVE, admin, cli
from keepalive.commands.remote import Remote, path_of
from keepalive.errors import SettingError

from ..conftest import Browse, Browser, Serve
from ..ports import free_port
from ..raw import ping
from ..test_web import ended, make_app, signed_in

TOKEN = "an-admin-token-of-more-than-thirty-two-characters"
Run = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command beside the server; its exit code, and what it wrote to both streams."""
    monkeypatch.setenv("KEEPALIVE_ADMIN_TOKEN", TOKEN)

    async def run(*arguments: str) -> tuple[int, str, str]:
        code = await asyncio.to_thread(cli.main, arguments)
        return code, *capsys.readouterr()

    return run


@pytest.fixture
async def port(serve: Serve) -> int:
    app = make_app()
    admin.mount(app, app[KEEPALIVE], token=TOKEN)
    return (await serve(app)).port


async def with_page(browse: Browse, port: int, user: str) -> tuple[Browser, Any]:
    browser = await signed_in(browse, port, user)
    page = await browser.page()
    page.send(ping(0, idle=3.0))
    await page.message("beat")
    return browser, page


async def test_sessions_from_list_to_end(run: Run, browse: Browse, port: int) -> None:
    url = f"--url=http://127.0.0.1:{port}"
    _, page = await with_page(browse, port, "ann")
    await with_page(browse, port, "bob\x1b[2J[red]")

    code, out, err = await run("sessions", "list", url)
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert "2 of 2 sessions" in out
    assert r"bob\x1b[2J[red]" in out
    code, out, _ = await run("sessions", "list", "--user", "ann", url)
    assert (code, "bob" in out) == (0, False)
    short = next(word for word in out.split() if len(word) == 16 and not set(word) - set("0123456789abcdef"))

    code, out, _ = await run("sessions", "show", short[:8], url)
    assert code == 0
    assert "Alive because an open page answers." in out
    assert "1 here" in out

    assert await run("sessions", "end", short, url) == (0, "ended: 1\n", "")
    await ended(page)
    code, out, err = await run("sessions", "show", short, url)
    assert (code, out) == (2, "")
    assert err.startswith(f"keepalive: no sessions with pages on this server begin with {short}: ")
    assert await run("sessions", "end", "--user", "bob\x1b[2J[red]", url) == (0, "ended: 1\n", "")
    code, out, _ = await run("sessions", "list", url)
    assert out.startswith("0 of 0 sessions with pages on ")


async def test_everything_as_json(run: Run, browse: Browse, port: int) -> None:
    url = f"--url=http://127.0.0.1:{port}"
    for user in ("ann", "bob", "cid"):
        await with_page(browse, port, user)
    code, out, _ = await run("sessions", "list", "--json", "--limit", "2", url)
    told = json.loads(out)
    assert (code, len(told["sessions"]), told["matches"]) == (0, 2, 3)
    one = told["sessions"][0]["id"]
    code, out, _ = await run("sessions", "show", one, "--json", url)
    assert json.loads(out)["id"] == one
    code, out, _ = await run("sessions", "end", one, "--json", url)
    assert json.loads(out) == {"ended": 1}
    code, out, _ = await run("stats", "--json", url)
    assert (code, json.loads(out)["nodes"][0]["this"]) == (0, True)
    code, out, _ = await run("stats", url)
    assert (code, "beats/s" in out, "ends since the start" in out) == (0, True, True)


async def test_a_long_list_is_fetched_page_by_page(
    browse: Browse, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepalive.commands.remote._PAGE", 2)
    for user in "abcde":
        await with_page(browse, port, user)
    rows, rest = await asyncio.to_thread(Remote(f"http://127.0.0.1:{port}", TOKEN).sessions, 4)
    assert (len({row["id"] for row in rows}), rest["matches"]) == (4, 5)


async def test_nobody_is_there(run: Run) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    for command in (["sessions", "list"], ["sessions", "end", "0" * 64], ["stats"]):
        code, out, err = await run(*command, "--url", url)
        assert (code, out) == (1, "")
        assert err.startswith(f"keepalive: no keepalive server answers at {url} (")
        assert err.endswith("start it, or name another one by --url\n")


async def test_another_token(run: Run, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KEEPALIVE_ADMIN_TOKEN")
    wrong = tmp_path / "token"
    wrong.write_text("x" + TOKEN)
    url = f"http://127.0.0.1:{port}"
    code, _, err = await run("stats", "--url", url, "--admin-token-file", str(wrong))
    assert (code, f"{url} has another admin token" in err) == (1, True)
    wrong.write_text(TOKEN)
    assert (await run("stats", "--url", url, "--admin-token-file", str(wrong)))[0] == 0
    code, _, err = await run("stats", "--url", url)
    assert (code, "there is no admin token: set KEEPALIVE_ADMIN_TOKEN" in err) == (2, True)


async def test_a_server_without_the_api(run: Run, serve: Serve) -> None:
    url = f"http://127.0.0.1:{(await serve(make_app())).port}"
    code, _, err = await run("stats", "--url", url)
    assert (code, f"{url} has no admin API: give it a token" in err) == (1, True)


async def test_the_token_follows_no_redirect(run: Run, serve: Serve) -> None:
    asked: list[str] = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPFound("/stolen")

    app = web.Application()
    app.router.add_get("/{tail:.*}", elsewhere)
    code, _, err = await run("stats", "--url", f"http://127.0.0.1:{(await serve(app)).port}")
    assert (code, "answers 302: name the server itself" in err) == (1, True)
    assert asked == ["/keepalive/admin/api/stats"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["sessions", "end"], "Name either a session or a --user."),
        (["sessions", "end", "00", "--user", "ann"], "Name either a session or a --user."),
        (["sessions", "show", "no-id"], "'no-id' is no session: name it by its first digits"),
        (["sessions", "list", "--limit", "0"], "Invalid value for '--limit'"),
        (["stats", "--url", "ftp://x"], "ftp://x is no address of a server"),
    ],
)
async def test_what_was_told_wrongly(run: Run, arguments: list[str], line: str) -> None:
    code, out, err = await run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"keepalive: {line}")


async def test_a_token_in_the_clear_is_noted(run: Run) -> None:
    _, _, err = await run("stats", "--url", "http://keepalive.invalid")
    assert "note: the admin token goes over the network in the clear" in err


def test_what_people_call_their_users() -> None:
    assert path_of("users", "a/b ?#ü", "sessions") == "/users/a%2Fb%20%3F%23%C3%BC/sessions"


def test_a_session_by_its_first_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ["ab" * 32, "ab" + "cd" * 31]
    monkeypatch.setattr(Remote, "sessions", lambda *_, **__: ([{"id": each} for each in ids], {}))
    remote = Remote("http://x", TOKEN)
    assert remote.session("abc") == ids[1]
    with pytest.raises(SettingError, match="2 sessions with pages on this server begin with ab"):
        remote.session("ab")
