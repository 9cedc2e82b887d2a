"""What Prometheus sees, of a server that does something."""

from prometheus_client.parser import text_string_to_metric_families

from keepalive import KEEPALIVE, metrics

from .conftest import Browse, Serve
from .raw import ping, until
from .test_web import ended, make_app, signed_in


async def test_the_numbers_of_a_server(serve: Serve, browse: Browse) -> None:
    app = make_app()
    port = (await serve(app)).port
    keepalive = app[KEEPALIVE]
    ann, bob = await signed_in(browse, port, "ann"), await signed_in(browse, port, "bob")
    pages = [await ann.page(), await ann.page(), await bob.page()]
    for n in range(3):
        pages[0].send(ping(n))
        await pages[0].message("beat")
    keepalive.push_user("bob", "news")
    await ann.post("/logout")
    for page in pages[:2]:
        await ended(page)
        page.cut()
    await until(lambda: keepalive.connected == (1, 1))

    text = metrics.render(keepalive).decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert all(family.documentation.endswith(".") for family in families.values())
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert samples["keepalive_sessions",] == 1
    assert samples["keepalive_sockets",] == 1
    assert samples["keepalive_opens_total",] == 3
    assert samples["keepalive_pings_total",] == 3
    assert samples["keepalive_beats_total",] == 3
    assert samples["keepalive_waits_total",] == 0
    assert samples["keepalive_pushes_total",] == 1
    assert samples["keepalive_ends_total", "logout"] == 1
    assert samples["keepalive_ends_total", "idle"] == 0
