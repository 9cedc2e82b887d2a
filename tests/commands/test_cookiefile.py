"""Cookies of the shell: a Netscape cookie file, and a variable of the environment."""

import logging
from pathlib import Path

import pytest
from aiohttp import ClientSession, CookieJar, web
from yarl import URL

from keepalive import SettingError
from keepalive.clock import ManualClock
from keepalive.commands.cookiefile import VARIABLE, CookieFile, cookies_for

from ..conftest import Serve

HEAD = "# Netscape HTTP Cookie File\n\n"
APP = URL("https://app.example/keepalive/")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jar.txt"


def line(*fields: str) -> str:
    return "\t".join(fields) + "\n"


def sent(jar: CookieJar, url: str) -> dict[str, str]:
    return {name: morsel.coded_value for name, morsel in jar.filter_cookies(URL(url)).items()}


OURS = line("#HttpOnly_app.example", "FALSE", "/", "FALSE", "0", "id", 'gAA=="x"')
OTHERS = (
    line(".example", "TRUE", "/", "TRUE", "4000000000", "wide", "w")
    + line("other.example", "FALSE", "/", "FALSE", "0", "id", "theirs")
    + "# a note\n"
)


async def test_cookies_go_where_a_browser_would_send_them(path: Path) -> None:
    path.write_text(HEAD + OURS + OTHERS + line("app.example", "FALSE", "/admin", "FALSE", "0", "id", "deep"))
    jar = CookieFile(path)
    assert sent(jar, "https://app.example/keepalive/") == {"id": 'gAA=="x"', "wide": "w"}
    assert sent(jar, "http://app.example/") == {"id": 'gAA=="x"'}, "secure ones go over TLS alone"
    assert sent(jar, "https://sub.app.example/") == {"wide": "w"}, "the other is the host's alone"
    assert sent(jar, "https://app.example/admin/x") == {"id": "deep", "wide": "w"}
    assert sent(jar, "https://other.example/") == {"id": "theirs", "wide": "w"}


async def test_whether_it_is_over_is_for_the_server_to_say(path: Path) -> None:
    path.write_text(line("127.0.0.1", "FALSE", "/", "FALSE", "1000000000", "id", "old"))
    assert sent(CookieFile(path), "http://127.0.0.1:8080/") == {"id": "old"}


@pytest.mark.parametrize(
    ("header", "value", "until"),
    [
        ("id=new; Path=/; Max-Age=60; HttpOnly", "new", "1800000060"),
        ('id="ne\\"w"; path=/', '"ne\\"w"', "0"),
        ("id=new; Path=/; Expires=Tue, 19 Jan 2038 03:14:07 GMT", "new", "2147483647"),
        ("id=new; Domain=app.example; Path=/", "new", "0"),
    ],
)
async def test_what_is_renewed_is_written_into_its_line(
    path: Path, header: str, value: str, until: str
) -> None:
    path.write_text(HEAD + OURS + OTHERS)
    path.chmod(0o640)
    jar = CookieFile(path, ManualClock())
    jar.update_cookies_from_headers(["more=1; Path=/", header, "=; nothing"], APP / "heartbeat")
    renewed = line("#HttpOnly_app.example", "FALSE", "/", "FALSE", until, "id", value)
    assert path.read_text() == HEAD + renewed + OTHERS
    assert path.stat().st_mode & 0o777 == 0o640
    assert [each.name for each in path.parent.iterdir()] == [path.name]
    assert sent(jar, str(APP))["id"] == value
    assert sent(CookieFile(path), str(APP))["id"] == value


@pytest.mark.parametrize("taken", ["Max-Age=0", "Expires=Thu, 01 Jan 1970 00:00:01 GMT"])
async def test_what_is_taken_back_is_gone(path: Path, taken: str) -> None:
    path.write_text(HEAD + OURS + OTHERS)
    jar = CookieFile(path)
    jar.update_cookies_from_headers([f"id=; Path=/; {taken}"], APP / "heartbeat")
    assert path.read_text() == HEAD + OTHERS
    assert "id" not in sent(jar, str(APP))


@pytest.mark.parametrize(
    "header", ["id=new; Path=/elsewhere", "id=new; Domain=other.example; Path=/", "id=new"]
)
async def test_another_cookie_of_that_name_changes_nothing(path: Path, header: str) -> None:
    path.write_text(HEAD + OURS + OTHERS)
    before = path.stat().st_ino
    CookieFile(path).update_cookies_from_headers([header], APP / "heartbeat")
    assert path.read_text() == HEAD + OURS + OTHERS
    assert path.stat().st_ino == before


async def test_what_others_wrote_meanwhile_stays(path: Path) -> None:
    path.write_text(OURS)
    jar = CookieFile(path, ManualClock())
    path.write_text(OTHERS + OURS)
    jar.update_cookies_from_headers(["id=new; Path=/"], APP)
    assert path.read_text() == OTHERS + OURS.replace('gAA=="x"', "new")


async def test_a_file_that_cannot_be_written_ends_nothing(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(OURS)
    jar = CookieFile(path)
    path.unlink()
    with caplog.at_level(logging.WARNING):
        jar.update_cookies_from_headers(["id=new; Path=/"], APP)
    assert sent(jar, str(APP)) == {"id": "new"}
    assert "cannot write a renewed cookie back into" in caplog.text
    assert "new" not in caplog.text.replace("renewed", "")


async def test_it_is_the_jar_of_a_session(path: Path, serve: Serve) -> None:
    """aiohttp gives it what a response sets."""

    async def renew(request: web.Request) -> web.Response:
        response = web.Response(text=request.headers["Cookie"])
        response.set_cookie("id", "new", max_age=60)
        return response

    app = web.Application()
    app.router.add_get("/", renew)
    port = (await serve(app)).port
    path.write_text(line("127.0.0.1", "FALSE", "/", "FALSE", "0", "id", "a=b=="))
    async with (
        ClientSession(cookie_jar=CookieFile(path, ManualClock())) as http,
        http.get(f"http://127.0.0.1:{port}/") as response,
    ):
        assert await response.text() == "id=a=b=="
    assert path.read_text() == line("127.0.0.1", "FALSE", "/", "FALSE", "1800000060", "id", "new")


@pytest.mark.parametrize("told", ["id=a=b==", "other=1;id=a=b== ; "])
async def test_the_environment_has_the_header(told: str) -> None:
    jar = cookies_for(URL("http://127.0.0.1:8080/app/keepalive/"), None, {VARIABLE: told})
    assert sent(jar, "http://127.0.0.1:8080/app/keepalive/ws")["id"] == "a=b=="
    assert sent(jar, "http://127.0.0.2:8080/app/keepalive/ws") == {}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot read .*: No such file"),
        (b"<html>", "is no Netscape cookie file"),
        (b"\xff\xfe", "is no Netscape cookie file"),
        (b"app.example\tFALSE\t/\tFALSE\t0\tna me\tv\n", "is no Netscape cookie file"),
        (b"a b\tFALSE\t/\tFALSE\t0\tid\tv\n", "is no Netscape cookie file"),
        (HEAD.encode(), "jar.txt has none for https://app.example"),
        (b"other.example\tFALSE\t/\tFALSE\t0\tid\tv\n", "jar.txt has none for https://app.example"),
    ],
)
async def test_a_file_that_will_not_do(path: Path, content: bytes | None, problem: str) -> None:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingError, match=problem) as caught:
        cookies_for(APP, path, {VARIABLE: "id=unused"})
    assert caught.value.solution


@pytest.mark.parametrize(
    ("environ", "problem"),
    [
        ({}, "there is none"),
        ({VARIABLE: " "}, "has none for"),
        ({VARIABLE: "na me=1"}, "holds no cookies"),
        ({VARIABLE: "id"}, None),
    ],
)
async def test_an_environment_that_will_not_do(environ: dict[str, str], problem: str | None) -> None:
    if problem is None:
        assert sent(cookies_for(APP, None, environ), str(APP)) == {"id": ""}
        return
    with pytest.raises(SettingError, match=problem):
        cookies_for(APP, None, environ)


@pytest.mark.parametrize("value", ["a\tb", "a\x85.bank.example\tTRUE\t/\tFALSE\t0\tid\tplanted", "\udcff"])
async def test_what_cannot_be_a_line_is_not_written_and_plants_nothing(
    path: Path, caplog: pytest.LogCaptureFixture, value: str
) -> None:
    path.write_text(OURS)
    jar = CookieFile(path)
    jar.update_cookies_from_headers([f"id={value}; Path=/"], APP)
    assert path.read_text() == OURS
    assert [each.name for each in path.parent.iterdir()] == [path.name], "no draft with cookies is left"
    assert "cannot write a renewed cookie back" in caplog.text


async def test_only_a_line_feed_ends_a_line(path: Path) -> None:
    """A server could otherwise plant cookies of other hosts, in a file that all of them share."""
    path.write_text(line("app.example", "FALSE", "/", "FALSE", "0", "id", "a\x85b\u2028c"), "utf-8")
    jar = CookieFile(path)
    assert sent(jar, str(APP)) == {"id": "a\x85b\u2028c"}
    jar.update_cookies_from_headers(["id=new; Path=/"], APP)
    assert path.read_text() == line("app.example", "FALSE", "/", "FALSE", "0", "id", "new")


@pytest.mark.parametrize("age", ["soon", "1e999", "nan"])
async def test_an_age_that_is_none_counts_as_absent(path: Path, age: str) -> None:
    """RFC 6265 §5.2.2."""
    path.write_text(OURS)
    CookieFile(path).update_cookies_from_headers([f"id=new; Path=/; Max-Age={age}"], APP)
    assert path.read_text() == OURS.replace('gAA=="x"', "new")


async def test_what_is_for_https_never_goes_out_by_http() -> None:
    jar = cookies_for(APP, None, {VARIABLE: "id=secret"})
    assert sent(jar, str(APP)) == {"id": "secret"}
    assert sent(jar, str(APP.with_scheme("http"))) == {}, "not even where a redirect leads to"
