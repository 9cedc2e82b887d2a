"""Prometheus' view of a server; needs the extra `metrics`."""

from collections.abc import Iterator

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .policy import Reason
from .web import Keepalive

CONTENT_TYPE = CONTENT_TYPE_LATEST

_HELP = {
    "opens": "Pages that have connected.",
    "pings": "Pings heard from pages.",
    "beats": "Beats sent: pings that the store has confirmed.",
    "waits": "Pings that the store could not confirm.",
    "asks": "Pages asked for an overdue ping.",
    "warnings": "Sessions whose pages were warned of a deadline.",
    "pushes": "Messages pushed to pages.",
    "batches": "Round trips to the store that carried touches.",
    "touches": "Touches in those batches.",
}


def render(keepalive: Keepalive) -> bytes:
    """The metrics of a server in Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(keepalive))
    return generate_latest(registry)


class _Snapshot(Collector):
    """Reads the counts when it is asked, so that counting costs a page nothing."""

    def __init__(self, keepalive: Keepalive) -> None:
        self._keepalive = keepalive

    def collect(self) -> Iterator[Metric]:
        sessions, sockets = self._keepalive.connected
        yield GaugeMetricFamily("keepalive_sessions", "Sessions with open pages.", sessions)
        yield GaugeMetricFamily("keepalive_sockets", "Open sockets.", sockets)
        counts = self._keepalive.counts
        for name, text in _HELP.items():
            yield CounterMetricFamily(f"keepalive_{name}", text, getattr(counts, name))
        ends = CounterMetricFamily(
            "keepalive_ends", "Sessions that ended with pages open.", labels=["reason"]
        )
        for reason in Reason:
            ends.add_metric([reason], counts.ends[reason])
        yield ends
