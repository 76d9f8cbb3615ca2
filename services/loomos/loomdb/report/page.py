"""A report as one HTML file without scripts or outside parts; the JSON is in it."""

from html import escape
from typing import Any

__all__ = ["COLUMNS", "page", "title_of"]

COLUMNS = ("at", "type", "actor", "stream", "details", "event_id", "log", "offset")
STYLE = (
    "body{font:14px/1.4 sans-serif;margin:2em;max-width:110em}"
    "table{border-collapse:collapse;width:100%}"
    "td,th{border-bottom:1px solid #ccc;padding:.2em .5em;text-align:left;vertical-align:top;"
    "overflow-wrap:anywhere}"
    "code{font-size:12px;overflow-wrap:anywhere}"
)


def page(content: dict[str, Any], as_json: bytes) -> bytes:
    """The file's bytes."""
    parts = [
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
        f"<title>{escape(title_of(content))}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title_of(content))}</h1>",
        f"<p>Cut: <code>{escape(content['cut'])}</code></p>",
        "<table>",
        *(
            f"<tr><th>{escape(one['what'])}</th><td>{escape(one['value'])}</td></tr>\n"
            for one in content["summary"]
        ),
        "</table>",
    ]
    for section in content["sections"]:
        parts.append(f"<h2>{escape(section['title'])}</h2><table><tr>")
        parts += [f"<th>{escape(name)}</th>" for name in (*COLUMNS, "leaf")]
        parts.append("</tr>\n")
        for row in section["rows"]:
            cells = [str(row[name]) for name in COLUMNS]
            cells.append(f"{row['proof']['index']}")
            parts.append("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in cells) + "</tr>\n")
        parts.append("</table>")
    parts.append("<h2>Signed checkpoints</h2>")
    parts += [f"<pre>{escape(note)}</pre>" for note in content["checkpoints"].values()]
    # The proofs are for programs; no text in the JSON can end the element that holds it.
    safe = as_json.decode().replace("<", "\\u003c")
    parts.append(f'<script type="application/json" id="report">{safe}</script></body></html>\n')
    return "".join(parts).encode()


def title_of(content: dict[str, Any]) -> str:
    """The report's heading."""
    told = ", ".join(f"{name} {value}" for name, value in content["parameters"].items() if value)
    return f"{content['report'].capitalize()} report of {content['organisation_id']}: {told}"
