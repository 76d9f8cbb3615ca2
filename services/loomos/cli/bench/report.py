"""What a bench measured, as a table for people or one JSON object a line for programs.

1. A row's `value` and `peer_value` are medians of the pairs; `ratio` is the median of the pairs'
   own ratios, so that what slows the machine for a while slows both sides of it.
2. Nothing is judged here: bars stand in the documentation.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any, NamedTuple

from loomos.cli import show

__all__ = ["Report", "Row", "paired", "percentile", "single"]

FIGURES = 4


class Row(NamedTuple):
    """One measured figure."""

    bench: str
    metric: str
    value: float
    unit: str
    peer: str = ""
    peer_value: float | None = None
    ratio: float | None = None


class Report:
    """Takes rows as they are measured; a table shows them at the end."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.rows: list[Row] = []

    def add(self, row: Row) -> None:
        """Take a row; in JSON it is printed at once."""
        self.rows.append(row)
        if self.as_json:
            show.print_json(plain(row))

    def say(self, line: str) -> None:
        """Tell what is being done."""
        show.err.print(line, markup=False, style="dim")

    def close(self) -> None:
        """Print the table where one was asked for."""
        if not self.as_json:
            shown = [[text(cell) for cell in row] for row in self.rows]
            show.table(Row._fields, shown, "nothing was measured")


def single(bench: str, metric: str, values: Sequence[float], unit: str) -> Row:
    """A figure without a peer: the median of its runs."""
    return Row(bench, metric, median(values), unit)


def paired(
    bench: str,
    metric: str,
    values: Sequence[float],
    unit: str,
    peer: str,
    peer_values: Sequence[float],
) -> Row:
    """A figure beside its peer's, run by run."""
    ratios = [ours / theirs for ours, theirs in zip(values, peer_values, strict=True)]
    return Row(bench, metric, median(values), unit, peer, median(peer_values), median(ratios))


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that at least so many percent of all do not exceed."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, int(rank) - 1)]


def plain(row: Row) -> dict[str, Any]:
    """A row as JSON carries it, rounded to figures that mean something."""
    return {
        name: rounded(value) if isinstance(value, float) else value
        for name, value in row._asdict().items()
    }


def rounded(value: float) -> float:
    """A number with four significant figures, or whole where it is larger."""
    return float(f"{value:.{FIGURES}g}") if abs(value) < 10**FIGURES else float(round(value))


def text(cell: Any) -> str:
    """A cell of the table."""
    if cell is None:
        return ""
    return f"{rounded(cell):,.10g}" if isinstance(cell, float | int) else str(cell)
