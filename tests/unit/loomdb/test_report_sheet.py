"""A report's PDF: the same bytes again, nothing cut off, and few letters measured."""

import re
import zlib

import pytest
from fpdf.line_break import Fragment

from loomos.loomdb.report.sheet import sheet

WORD = "w" * 700
DETAILS = f'{{"note": "it’s (about) a \\\\ and more", "long": "{WORD}"}}'
MEASURED_PER_ROW_MAX = 30
ROWS = 40


def content(details: str) -> dict:
    row = {
        "at": "2026-11-22T22:00:00Z",
        "type": "job.completed",
        "actor": "user:user-acme-a",
        "stream": "run-7",
        "details": details,
        "event_id": "evt-7",
        "log": "loomos.data-0",
        "offset": 7,
        "proof": {"index": 7, "leaf": "", "path": []},
    }
    return {
        "report": "access",
        "organisation_id": "acme",
        "parameters": {"period": "2026Q4"},
        "cut": "loomos.data:0:7",
        "summary": [{"what": "events", "value": "40"}],
        "sections": [{"title": "Reads", "rows": [row] * ROWS}, {"title": "Grants", "rows": []}],
        "checkpoints": {"loomos.data-0": "loomos.data-0\n8\nroot=\n\n— loomos signature\n"},
    }


def shown(pdf: bytes) -> list[str]:
    """Each piece of text that the pages show."""
    streams = re.findall(rb"stream\n(.*?)\nendstream", pdf, re.DOTALL)
    pages = b"".join(zlib.decompress(one) for one in streams if one[:1] == b"\x78")
    pieces = re.findall(rb"\(((?:[^\\()]|\\.)*)\) Tj", pages)
    return [re.sub(r"\\(.)", r"\1", piece.decode("latin-1")) for piece in pieces]


def test_every_row_is_shown_whole_and_the_same_again():
    told = content(DETAILS)
    made = sheet(told, b"{}")
    assert sheet(told, b"{}") == made
    text = "".join(shown(made))
    assert text.count(WORD) == ROWS
    assert text.count('"it?s (about) a') == ROWS
    for heading in ("Access report of acme", "Reads", "Grants", "none", "Signed checkpoints"):
        assert heading in text
    assert shown(made)[-4:] == ["loomos.data-0", "8", "root=", "? loomos signature"]


def test_a_row_costs_few_measurements(monkeypatch: pytest.MonkeyPatch):
    measured = 0
    real = Fragment.get_width

    def counted(self, *args, **kwargs):
        nonlocal measured
        measured += 1
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Fragment, "get_width", counted)
    sheet(content(DETAILS), b"{}")
    assert measured < ROWS * MEASURED_PER_ROW_MAX
