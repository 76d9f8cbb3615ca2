"""`loomos audit sql`: one SELECT over the auditors' views, or over archive and index together."""

import json
from typing import Annotated

import typer

from loomos.cli.door import Door, place_of
from loomos.cli.show import Json, err, print_json, table

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add this part's command."""
    app.command("sql")(run)


def run(
    query: Annotated[str, typer.Argument(help="One SELECT over events, stories or commands.")],
    cold: Annotated[
        bool, typer.Option("--cold", help="Ask archive and index as one table, records.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Rows at most.")] = 1000,
    organisation: Annotated[str, typer.Option("--org", help="Whose; yours if not given.")] = "",
    as_json: Json = False,
) -> None:
    """Ask the audit trail in SQL; what is sealed stays sealed.

    Example: loomos audit sql "SELECT type, count(*) FROM events GROUP BY type ORDER BY 2 DESC"
    """
    with Door.open() as door:
        path = place_of(door, organisation, "audit/sql", "whose trail? give --org")
        answer = door.call("POST", path, {"sql": query, "cold": cold, "limit": limit}, reads=True)
    columns = answer.get("columns", [])
    rows = [json.loads(row) for row in answer.get("rows", [])]
    if as_json:
        for row in rows:
            print_json(dict(zip(columns, row, strict=True)))
    else:
        table(columns, rows, "no rows")
    if not answer.get("complete"):
        err.print("there are more rows: raise --limit or ask for less", markup=False)
