"""A report as a PDF; the JSON is attached to it.

1. The standard fonts know Latin-1 only: other characters are shown as `?` here, and rightly in the
   attached JSON.
2. Letters are of one width, so lines are broken by counting: measuring each letter for that, as
   fpdf does, took nine tenths of a report's time.
"""

from datetime import UTC, datetime
from textwrap import wrap
from typing import Any, Literal

from loomos.loomdb.report.page import title_of

__all__ = ["sheet"]

WHEN = datetime(1970, 1, 1, tzinfo=UTC)
"""A report is of its cut, not of the moment at which somebody printed it."""
LINE_MM = 4.0
MARGIN_MM = 12.0


def sheet(content: dict[str, Any], as_json: bytes) -> bytes:
    """The file's bytes."""
    # Slow to import, and few calls ask for a report.
    from fpdf import FPDF

    pdf = FPDF(orientation="landscape", format="A4")
    pdf.set_creation_date(WHEN)
    pdf.set_title(latin(title_of(content)))
    pdf.set_producer("loomos")
    pdf.set_margin(MARGIN_MM)
    pdf.set_auto_page_break(auto=True, margin=MARGIN_MM)
    pdf.add_page()

    def line(text: str, size: int, style: Literal["", "B"] = "", height: float = LINE_MM) -> None:
        pdf.set_font("courier", style, size)
        letters = int(pdf.epw / pdf.get_string_width("0"))
        for part in latin(text).splitlines():
            for piece in wrap(part, letters, break_on_hyphens=False) or [""]:
                pdf.cell(0, height, piece, new_x="LMARGIN", new_y="NEXT")

    line(title_of(content), 16, "B", 9)
    line(f"Cut: {content['cut']}", 7)
    pdf.ln(2)
    for one in content["summary"]:
        line(f"{one['what']}: {one['value']}", 9)
    for section in content["sections"]:
        pdf.ln(3)
        line(section["title"], 12, "B", 7)
        if not section["rows"]:
            line("none", 8)
        for row in section["rows"]:
            line(f"{row['at']}  {row['type']}  {row['actor']}  {row['stream']}", 8, "B")
            line(
                f"{row['details']}  [event {row['event_id']}, {row['log']} offset "
                f"{row['offset']}, leaf {row['proof']['index']}]",
                7,
            )
    pdf.ln(3)
    line("Signed checkpoints", 12, "B", 7)
    for note in content["checkpoints"].values():
        line(note, 6)
    pdf.embed_file(
        bytes=as_json, basename="report.json", creation_date=WHEN, modification_date=WHEN
    )
    return bytes(pdf.output())


def latin(text: str) -> str:
    """Text as the standard fonts can show it."""
    return text.encode("latin-1", "replace").decode("latin-1")
