"""How answers look: tables for people, one JSON object a line for programs.

1. What comes from the platform is text of strangers: it never styles the terminal.
2. Answers go to standard output, everything else to standard error.
"""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

__all__ = [
    "UNSEEN",
    "Json",
    "done",
    "err",
    "fields",
    "line_of",
    "listing",
    "number",
    "out",
    "place_text",
    "print_json",
    "short",
    "table",
]

UNSEEN = None if sys.stdout.isatty() else 300
"""Without a terminal nobody sees a width: ids stay in one piece."""

out = Console(highlight=False, width=UNSEEN)
err = Console(stderr=True, soft_wrap=True, highlight=False)

Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


def print_json(value: Any) -> None:
    """One object on one line."""
    sys.stdout.write(json.dumps(value, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str) -> None:
    """Rows under their headings, or a line that says that there are none."""
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*(escape(printable(cell)) for cell in row))
    if shown.row_count:
        out.print(shown)
    else:
        err.print(empty, markup=False)


def listing(
    found: Iterable[Any],
    as_json: bool,
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    empty: str,
) -> None:
    """What was found, each as a line of JSON, or all of it as a table."""
    if not as_json:
        table(columns, rows, empty)
        return
    for one in found:
        print_json(one)


def fields(pairs: Iterable[tuple[str, Any]]) -> None:
    """Names and values, one pair a line; empty values are left out."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    shown.add_column(style="bold")
    shown.add_column(overflow="fold")
    for name, value in pairs:
        if value not in ("", None, [], {}):
            shown.add_row(name, escape(printable(value)))
    out.print(shown)


def done(text: str, answer: Mapping[str, Any], as_json: bool = False) -> None:
    """What a command did, with the receipt's id and correlation id for programs."""
    receipt = answer.get("receipt", answer)
    if as_json:
        print_json(receipt)
        return
    out.print(escape(printable(text)), soft_wrap=True)


def number(holder: Mapping[str, Any], name: str) -> int:
    """An integer field, which JSON carries as text where it is 64 bits wide."""
    return int(holder.get(name) or 0)


def short(name: Any, prefix: str) -> str:
    """An enum's value for people: `RUNNING` for `JOB_STATUS_RUNNING`."""
    return str(name or "").removeprefix(prefix)


def place_text(position: Mapping[str, Any] | None) -> str:
    """A place in the log in one word; "" for none."""
    if not position:
        return ""
    return f"{position['topic']}/{position.get('partition', 0)}@{position.get('offset', 0)}"


def line_of(event: Mapping[str, Any], when: str = "") -> str:
    """One event in one line of markup."""
    kind = escape(printable(event.get("type")))
    stream = escape(printable(f"{event.get('stream')} v{event.get('version', 0)}"))
    place = place_text(event.get("position"))
    tail = f"{when} {event.get('actor')} {place} {event.get('event_id')}".lstrip()
    return f"[bold]{kind}[/bold] {stream} [dim]{escape(printable(tail))}[/dim]"


def printable(value: Any) -> str:
    """A value in one line without control characters."""
    return "".join(c if c.isprintable() else "�" for c in str(value))
