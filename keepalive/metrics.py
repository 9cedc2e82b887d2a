"""Prometheus' view of a server; needs the extra `metrics`.

Counting costs a page nothing: the counts are read when somebody asks, and whatever is measured is
measured once a batch or once a tick. Of several workers each is asked by the one that the scrape
happens to reach, so that every scrape has the numbers of all, under the label `worker`. One that
died is missing until its successor answers, and begins anew from zero, as a restarted server does:
`rate()` and `increase()` know that.
"""

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

import msgspec
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from . import __version__, lines
from .histogram import Histogram
from .policy import Reason
from .siblings import Siblings
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
    "lost_pushes": "Pushes that pages at other servers have missed, as the store did not take them.",
    "failures": "Batches of touches that the store has not confirmed.",
}
_LOGS = {"": "server", "keepalive.audit": "audit"}


class Metrics:
    """The metrics of a server: of all the workers behind its port.

    Args:
        keepalive: what is counted here.
        siblings: the others.
    """

    def __init__(self, keepalive: Keepalive, siblings: Siblings) -> None:
        self._siblings = siblings
        self._process = ProcessCollector(registry=None)
        self._snapshot = _Snapshot(keepalive, self._process)
        siblings.answer("metrics", self._answer)

    async def render(self) -> bytes:
        """All metrics in Prometheus' text format."""
        answers = await self._siblings.ask("metrics")
        workers = {
            name: msgspec.json.decode(answer, type=list[_Family])
            for name, answer in answers.items()
            if answer is not None
        }
        workers_up = GaugeMetricFamily("keepalive_workers", "Processes in this scrape.", len(workers))
        registry = CollectorRegistry()
        registry.register(_Given([workers_up, *_merged(workers)]))
        return generate_latest(registry)

    async def _answer(self, told: bytes) -> bytes:
        return msgspec.json.encode(self._families())

    def _families(self) -> list["_Family"]:
        return [
            _Family(
                one.name,
                one.documentation,
                one.type,
                [(s.name, s.labels, float(s.value)) for s in one.samples],
            )
            for one in self._snapshot.collect()
        ]


class _Family(NamedTuple):
    """A metric with its samples: their names, labels and values."""

    name: str
    documentation: str
    type: str
    samples: list[tuple[str, dict[str, str], float]]


class _Given(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class _Snapshot(Collector):
    """This process's numbers as they are now."""

    def __init__(self, keepalive: Keepalive, process: Collector) -> None:
        self._keepalive = keepalive
        self._process = process
        self._resident_at_start = next(
            (
                sample.value
                for one in process.collect()
                for sample in one.samples
                if "resident" in sample.name
            ),
            0.0,
        )

    def collect(self) -> Iterator[Metric]:
        keepalive, counts = self._keepalive, self._keepalive.counts
        sessions, sockets = keepalive.connected
        yield GaugeMetricFamily("keepalive_sessions", "Sessions with open pages.", sessions)
        yield GaugeMetricFamily("keepalive_sockets", "Open sockets.", sockets)
        for name, text in _HELP.items():
            yield CounterMetricFamily(f"keepalive_{name}", text, getattr(counts, name))
        ends = {str(reason): counts.ends[reason] for reason in Reason}
        yield _by("ends", "Sessions that ended with pages open.", "reason", ends)
        yield _by("closes", "Closed sockets, by close code.", "code", counts.told_closes())
        yield _by("handshakes", "Requests for a socket.", "result", {"accepted": 0} | counts.handshakes)
        yield _histogram("batch_touches", "Touches in a batch that the store has confirmed.", counts.sizes)
        yield _histogram("store_seconds", "How long the store took to confirm a batch.", counts.store, 2)
        yield GaugeMetricFamily(
            "keepalive_store_up",
            "Whether the store has confirmed the newest batch.",
            keepalive.heart.store_up,
        )
        lag = keepalive.lag
        yield _histogram(
            "loop_lag_seconds", "How late the event loop came, ten times a second.", lag.seconds, 2
        )
        yield GaugeMetricFamily(
            "keepalive_loop_lag_max_seconds", "The longest lag of the last 30 to 60 seconds.", lag.worst
        )
        dropped = {_LOGS[name]: count for name, count in lines.dropped().items()}
        yield _by("log_lines_dropped", "Log lines that could not be written in time.", "log", dropped)
        # Memory for each socket is this way about: (resident now - resident at the start) / sockets.
        yield GaugeMetricFamily(
            "keepalive_start_resident_memory_bytes",
            "Resident memory before the first page came.",
            self._resident_at_start,
        )
        info = GaugeMetricFamily("keepalive_build_info", "The version that runs.", labels=["version"])
        info.add_metric([__version__], 1)
        yield info
        yield from self._process.collect()


def _by(name: str, text: str, label: str, values: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(f"keepalive_{name}", text, labels=[label])
    for value, count in values.items():
        family.add_metric([value], count)
    return family


def _histogram(name: str, text: str, histogram: Histogram, every: int = 1) -> HistogramMetricFamily:
    """Cumulative, as Prometheus wants it; of many bounds, one in `every` will do."""
    *totals, all_of_them = accumulate(histogram.counts)
    bounds = [f"{bound:.4g}" for bound in histogram.bounds]
    buckets = [*zip(bounds[::every], totals[::every], strict=True), ("+Inf", all_of_them)]
    return HistogramMetricFamily(f"keepalive_{name}", text, buckets=buckets, sum_value=histogram.total)


def _merged(workers: dict[str, list[_Family]]) -> list[Metric]:
    """The families of all workers, each once, with a label that tells whose a sample is."""
    merged: dict[str, Metric] = {}
    for worker, families in workers.items():
        mark = {"worker": worker} if worker else {}
        for name, documentation, kind, samples in families:
            metric = merged.setdefault(name, Metric(name, documentation, kind))
            for sample, labels, value in samples:
                metric.add_sample(sample, labels | mark, value)
    return list(merged.values())
