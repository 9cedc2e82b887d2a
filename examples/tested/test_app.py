"""The rules of the app's sessions, in virtual time."""

from app import make_app


async def test_who_goes_home_is_signed_out(aiohttp_client, clock, keepalive_app, page, assert_ends):
    keepalive_app(app := make_app())
    client = await aiohttp_client(app)
    await client.post("/login", data={"name": "ann"})
    tab = await page(cookies=client.session.cookie_jar)
    tab.input()
    await clock.advance(minutes=14, seconds=30)
    assert tab.warning.extendable
    await clock.advance(minutes=1)
    await assert_ends("idle")
    assert (await client.get("/reports")).status == 401


async def test_who_works_all_day_has_to_sign_in_again(
    aiohttp_client, clock, keepalive_app, page, assert_ends
):
    keepalive_app(app := make_app())
    await aiohttp_client(app)
    tab = await page("ann")
    for _ in range(8 * 6 - 1):
        tab.input()
        await clock.advance(minutes=10)
    await assert_ends(None)
    tab.input()
    await clock.advance(minutes=10, seconds=1)
    await assert_ends("absolute")
