"""What the command line prints: tables and findings for people, in as much colour as the terminal has.

Names of users and the like are shown as text, never as markup, and with control characters escaped.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from .finding import Finding, Level

WIDE = 160
"""Columns where nobody looks: in a file or a pipe no line shall be cut."""
_MARKS = {Level.GREEN: ("✓", "green"), Level.YELLOW: ("!", "yellow"), Level.RED: ("✗", "bold red")}


def show(what: RenderableType) -> None:
    """Print it."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(what)


def say(line: str) -> None:
    """Tell in a line what is no part of the answer."""
    sys.stderr.write(f"keepalive: {' '.join(line.split())}\n")
    sys.stderr.flush()


def findings(found: Sequence[Finding]) -> RenderableType:
    """What the doctor found; good news in a line each, bad news with why and what to do."""
    lines: list[RenderableType] = []
    for level, about, what, why, fix in found:
        mark, style = _MARKS[level]
        row = Table.grid(padding=(0, 1))
        row.add_column(width=1)
        row.add_column(width=11)
        row.add_column()
        row.add_row(Text(mark, style), Text(about, "bold"), plain(what))
        if why:
            row.add_row("", Text("why", "dim", justify="right"), plain(why))
        if fix:
            row.add_row("", Text("do", "dim", justify="right"), plain(fix))
        lines.append(row)
    counts = Counter(finding.level for finding in found)
    total = Text("\n")
    for level, (_, style) in _MARKS.items():
        total.append(f"{counts[level]} {level}", style if counts[level] else "dim").append("   ")
    return Group(*lines, total)


def sessions(rows: Sequence[Mapping[str, Any]], answer: Mapping[str, Any]) -> RenderableType:
    """A list of sessions."""
    table = _table(
        "session", "user", ">pages", ">visible", ">last ping", ">last input", ">age", ">ends in", "address"
    )
    for row in rows:
        ends = [seconds for seconds in (row["idle_in"], row["absolute_in"]) if seconds is not None]
        table.add_row(
            Text(row["id"][:16]),
            plain(row["user"] or "-"),
            _number(row["pages"]),
            _number(row["visible"]),
            *(span(row[name]) for name in ("last_ping", "last_input", "age")),
            span(min(ends)),
            plain(", ".join(row["addresses"]) or "-"),
        )
    note = Text(f"{len(rows)} of {answer['matches']} sessions with pages on ", "dim")
    note.append_text(plain(", ".join(answer["nodes"])))
    if answer["missing"]:
        note.append(f"; nodes of this server that do not answer: {answer['missing']}", "yellow")
    return Group(table, note) if rows else note


def session(told: Mapping[str, Any]) -> RenderableType:
    """One session, and why it is alive."""
    head = Table.grid(padding=(0, 2))
    row = told["session"]
    head.add_row(Text("session", "dim"), Text(told["id"]))
    if row is not None:
        head.add_row(Text("user", "dim"), plain(row["user"] or "-"))
        head.add_row(Text("mode", "dim"), plain(row["mode"]))
    head.add_row(Text("ends in", "dim"), Text.assemble(span(told["ends_in"]), f", by {told['ends_by']}"))
    head.add_row(
        Text("pages", "dim"), Text(f"{len(told['pages'])} here, {told['pages_everywhere']} everywhere")
    )
    table = _table("page at", "shows", ">pings", ">last ping", ">asked")
    for page in told["pages"]:
        table.add_row(
            plain(page["address"] or "-"),
            Text("visible" if page["visible"] else "hidden"),
            _number(page["pings"] + 1),
            span(page["last_ping"]),
            _number(page["asks"]),
        )
    why = Padding(plain(told["sentence"]), (1, 0))
    return Group(head, why, *([table] if told["pages"] else []))


def stats(told: Mapping[str, Any]) -> RenderableType:
    """What goes on, node by node."""
    table = _table(
        "node", ">up", ">pages", ">sessions", ">beats/s", ">waits/s", ">p50", ">p99", ">store p99", ">lag", ""
    )
    for node in told["nodes"]:
        state = Text("draining", "yellow") if node["draining"] else Text("")
        table.add_row(
            plain(node["name"]), span(node["up"]), *_rates(node["now"]), _milliseconds(node["lag"]), state
        )
    if len(told["nodes"]) > 1:
        table.add_section()
        table.add_row(Text("all"), "", *_rates(told["moment"]["now"]), "", "", style="bold")
    ends: Counter[str] = Counter()
    closes: Counter[str] = Counter()
    for node in told["nodes"]:
        ends.update(node["ends"])
        closes.update(node["closes"])
    known = Table.grid(padding=(0, 2))
    known.add_row(Text("users", "dim"), _number(told["users"]))
    known.add_row(Text("ends since the start", "dim"), _counted(ends))
    known.add_row(Text("closes since the start", "dim"), _counted(closes))
    return Group(table, known)


def settings(rows: Iterable[tuple[str, str, str]]) -> RenderableType:
    """Settings, their values, and where each was told."""
    table = _table("setting", "value", "told by")
    for name, value, where in rows:
        default = where == "default"
        table.add_row(Text(name), plain(value), plain(where), style="dim" if default else None)
    return table


def verdicts(rows: Sequence[tuple[str, str, str | None]]) -> RenderableType:
    """How a server has kept to the transcripts: the name and title of each, and what was wrong."""
    table = Table.grid(padding=(0, 1))
    for name, title, deviation in rows:
        mark, style = _MARKS[Level.RED if deviation else Level.GREEN]
        table.add_row(Text(mark, style), Text(name, "bold"), plain(title))
        if deviation:
            table.add_row("", "", Text(deviation, "red"))
    wrong = sum(deviation is not None for _, _, deviation in rows)
    total = Text(f"\n{len(rows) - wrong} of {len(rows)} transcripts kept", "bold red" if wrong else "green")
    return Group(table, total)


def _table(*headings: str) -> Table:
    """A table; what stands under `>heading` is a number."""
    table = Table(box=SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for heading in headings:
        justify: JustifyMethod = "right" if heading.startswith(">") else "left"
        table.add_column(heading.lstrip(">"), overflow="fold", justify=justify)
    return table


def plain(text: str) -> Text:
    """A text that somebody else has made up."""
    return Text(text if text.isprintable() else repr(text)[1:-1])


def _number(value: float | None) -> Text:
    if value is None:
        return Text("-")
    return Text(f"{value:,.0f}" if value == int(value) else f"{value:,.1f}")


def _milliseconds(seconds: float | None) -> Text:
    return Text("-" if seconds is None else f"{seconds * 1000:,.1f} ms")


def span(seconds: float | None) -> Text:
    """Seconds in the two largest units."""
    if seconds is None:
        return Text("-")
    whole = int(seconds)
    days, hours, minutes = whole // 86400, whole // 3600 % 24, whole // 60 % 60
    for large, small, units in ((days, hours, "dh"), (hours, minutes, "hm"), (minutes, whole % 60, "ms")):
        if large:
            return Text(f"{large}{units[0]} {small:02}{units[1]}")
    return Text(f"{whole}s")


def _rates(now: Mapping[str, Any]) -> list[Text]:
    return [
        *(_number(now[name]) for name in ("pages", "sessions", "beats", "waits")),
        *(_milliseconds(now[name]) for name in ("p50", "p99", "store_p99")),
    ]


def _counted(counts: Counter[str]) -> Text:
    return Text(", ".join(f"{name} {count:,}" for name, count in sorted(counts.items())) or "none")
