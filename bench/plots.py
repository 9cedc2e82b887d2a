"""The plots of docs/benchmarks.md, as SVG. They bring their own paper, for light and dark pages alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from .rivals import Rival
from .rows import Row
from .rows.crowd import FEW, latencies
from .rows.row import middle

_INK, _MUTED, _GRID = "#1f2937", "#6b7280", "#e5e7eb"
_OURS = "#c2185b"
_COLOURS = {
    "keepalive": _OURS,
    "stock aiohttp": "#1d4ed8",
    "tuned aiohttp": "#60a5fa",
    "websockets": "#0f766e",
    "picows": "#b45309",
    "python-socketio": "#7c3aed",
    "ws": "#4d7c0f",
    "socket.io": "#4b5563",
    "polling, Redis": "#94a3b8",
    "polling, cookie": "#94a3b8",
}
_APART = 0.05
"""How far apart two labels are at least, as a share of the height."""
_DASHES = {"asyncio": (0, (4, 2)), "uvloop": "solid", "node": "solid"}
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": _GRID,
    "axes.grid": True,
    "axes.labelcolor": _INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": _INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "font.size": 10,
    "grid.color": _GRID,
    "lines.linewidth": 1.8,
    "svg.hashsalt": "keepalive",
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "ytick.labelcolor": _INK,
}


def draw(rows: Mapping[str, Row], folder: Path) -> dict[str, str]:
    """Draw what was measured; returns the file that shows each row."""
    folder.mkdir(parents=True, exist_ok=True)
    drawn = {}
    for name, plot in _PLOTS.items():
        if name in rows and rows[name].readings:
            with mpl.rc_context(_STYLE):
                figure = Figure(figsize=(8.6, 4.6), layout=ConstrainedLayoutEngine(w_pad=0.15, h_pad=0.15))
                plot(figure, rows[name])
                drawn[name] = f"bench-{name}.svg"
                figure.savefig(folder / drawn[name], metadata={"Date": None})
    return drawn


def _memory(figure: Figure, row: Row) -> None:
    axes = figure.subplots()
    ends = []
    for rival, growths in row.readings.items():
        pages = [pages for pages, _ in growths[0].memory]
        sizes = [median(growth.memory[step][1] for growth in growths) / 2**20 for step in range(len(pages))]
        axes.plot(pages, sizes, color=_COLOURS[rival.name], linestyle=_DASHES[rival.loop])
        ends.append((sizes[-1], rival))
    axes.set(
        title="Memory of the server process",
        xlabel="open pages, each with its session",
        ylabel="MiB, resident",
        ylim=(0, None),
        xlim=(0, None),
    )
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _label_ends(axes, ends)


def _pings(figure: Figure, row: Row) -> None:
    axes = figure.subplots()
    ranked = sorted(row.readings, key=lambda rival: middle(row.readings, rival, "rate"))
    rates = [middle(row.readings, rival, "rate") for rival in ranked]
    names = [f"{rival.name} ({rival.loop})" for rival in ranked]
    bars = axes.barh(names, rates, height=0.7, color=[_COLOURS[rival.name] for rival in ranked])
    axes.bar_label(bars, [f"{rate:,.0f}" for rate in rates], padding=4, color=_INK)
    axes.set(title="Pings answered per second on one core", xlim=(0, max(rates) * 1.12))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(visible=False, axis="y")
    axes.margins(y=0.02)
    _embolden(axes, ranked)


def _store(figure: Figure, row: Row) -> None:
    _pings(figure, row)
    figure.axes[0].set_title("Pings per second on one core, every one confirmed by the store")
    figure.set_size_inches(8.6, 2.8)


def _latency(figure: Figure, row: Row) -> None:
    places = ["median", "90 %", "99 %", "99.9 %", "longest"]
    loops = list(dict.fromkeys(rival.loop for rival in row.readings))
    panels = figure.subplots(1, len(loops), sharey=True, squeeze=False)[0]
    for axes, loop in zip(panels, loops, strict=True):
        for rival, crowds in row.readings.items():
            if rival.loop == loop:
                for which, dashes in (("few", (0, (4, 2))), ("many", "solid")):
                    axes.plot(
                        places,
                        latencies(crowds, which),
                        color=_COLOURS[rival.name],
                        label=f"{rival.name}, {FEW if which == 'few' else crowds[0].pages:,} pages",
                        linestyle=dashes,
                        marker="o",
                        markersize=4,
                    )
        axes.set(title=f"From ping to beat, {loop}", yscale="log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(frameon=False, labelcolor=_INK)
    panels[0].set_ylabel("milliseconds")


def _operations(figure: Figure, row: Row) -> None:
    axes = figure.subplots()
    pages = [each.pages for each in row.readings]
    lines = (
        ("pings; to polling, each\nis a load and a save", [each.pings for each in row.readings], _MUTED, "o"),
        ("sessions * time / touch_every", [each.most for each in row.readings], _MUTED, ""),
        ("keepalive: sessions touched", [each.touches for each in row.readings], _OURS, "o"),
        ("keepalive: round trips", [each.batches for each in row.readings], _OURS, "s"),
    )
    for label, values, colour, marker in lines:
        axes.plot(
            pages,
            values,
            color=colour,
            label=label,
            linestyle="solid" if marker else (0, (4, 2)),
            marker=marker,
        )
    sessions = row.readings[0].sessions
    axes.set(
        title=f"What {sessions:,} sessions ask of the store in ten minutes",
        xlabel="open pages",
        ylim=(0, None),
    )
    axes.set_xticks(pages)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False, labelcolor=_INK)


def _label_ends(axes: Axes, ends: Sequence[tuple[float, Rival]]) -> None:
    """Write each line's name beside its end, once for loops that end together, and none over another."""
    top = axes.get_ylim()[1]
    free = 0.0
    for name in sorted({rival.name for _, rival in ends}, key=lambda name: _places(ends, name, top)):
        places = _places(ends, name, top)
        loops = [rival.loop for _, rival in sorted(ends, key=lambda end: end[0]) if rival.name == name]
        together = len(places) > 1 and places[-1] - places[0] < _APART
        labels = ["both loops"] if together else loops
        for place, label in zip([sum(places) / len(places)] if together else places, labels, strict=True):
            at = max(place, free)
            free = at + _APART
            axes.text(
                1.01,
                at,
                f"{name} ({label})",
                color=_COLOURS[name],
                fontweight="bold" if name == "keepalive" else "normal",
                transform=axes.transAxes,
                verticalalignment="center",
            )


def _places(ends: Sequence[tuple[float, Rival]], name: str, top: float) -> list[float]:
    """How far up a server's lines end, as shares of the height."""
    return sorted(value / top for value, rival in ends if rival.name == name)


def _embolden(axes: Axes, rivals: Sequence[Rival]) -> None:
    for label, rival in zip(axes.get_yticklabels(), rivals, strict=True):
        if rival.name == "keepalive":
            label.set(color=_OURS, fontweight="bold")


_PLOTS = {
    "pings": _pings,
    "store": _store,
    "memory": _memory,
    "latency": _latency,
    "operations": _operations,
}
