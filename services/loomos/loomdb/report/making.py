"""A report's rows with their proofs, in three formats, and the manifest that vouches for them."""

import base64
import hashlib
import json
from typing import Any, NamedTuple

from loom.decider import Code, Rejected
from loom.log.merkle import inclusion_proof
from loom.log.note import Signer
from loom.log.tiles import Tiles
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.proof import Place, Trees, index_of
from loomos.loomdb.report.page import page
from loomos.loomdb.report.sheet import sheet

__all__ = ["Made", "Question", "Section", "Shown", "make"]

FORMAT = "loomos report v1"
MANIFEST = "loomos report manifest v1"
BYTES_MAX = 3_500_000


class Question(NamedTuple):
    """What a report answers."""

    report: str
    organisation_id: str
    parameters: dict[str, str]


class Shown(NamedTuple):
    """One event as a report shows it."""

    event_id: str
    type: str
    at: str
    actor: str
    stream: str
    details: str
    topic: str
    partition: int
    offset: int


class Section(NamedTuple):
    """Events under a heading."""

    title: str
    rows: list[Shown]


class Made(NamedTuple):
    """A report in all its formats."""

    facts: pb.ReportFacts
    files: dict[int, bytes]
    """By ReportFormat."""
    manifest: str
    public_key: str


def make(
    question: Question,
    sections: list[Section],
    summary: list[tuple[str, str]],
    cut: list[Place],
    trees: Trees,
) -> Made:
    """The report. Reads the trees' files and computes: call it in a thread."""
    signer = trees.signer()
    content = content_of(question, sections, summary, cut, trees, signer)
    as_json = (json.dumps(content, sort_keys=True, ensure_ascii=False, indent=1) + "\n").encode()
    files: dict[int, bytes] = {
        pb.REPORT_FORMAT_JSON: as_json,
        pb.REPORT_FORMAT_HTML: page(content, as_json),
        pb.REPORT_FORMAT_PDF: sheet(content, as_json),
    }
    largest = max(map(len, files.values()))
    if largest > BYTES_MAX:
        told = f"the report has {largest} bytes, at most {BYTES_MAX} can be sent: ask for less"
        raise Rejected(Code.FAILED_PRECONDITION, told, "period")
    digests = {number: hashlib.sha256(data) for number, data in files.items()}
    facts = pb.ReportFacts(
        cut=str(content["cut"]),
        rows=sum(len(section.rows) for section in sections),
        json_sha256=digests[pb.REPORT_FORMAT_JSON].digest(),
        html_sha256=digests[pb.REPORT_FORMAT_HTML].digest(),
        pdf_sha256=digests[pb.REPORT_FORMAT_PDF].digest(),
    )
    said = {
        "cut": content["cut"],
        "organisation_id": question.organisation_id,
        "parameters": question.parameters,
        "report": question.report,
        "rows": facts.rows,
        "sha256": {
            "html": digests[pb.REPORT_FORMAT_HTML].hexdigest(),
            "json": digests[pb.REPORT_FORMAT_JSON].hexdigest(),
            "pdf": digests[pb.REPORT_FORMAT_PDF].hexdigest(),
        },
    }
    # Its second line is no number, so it can never be taken for a checkpoint.
    manifest = signer.sign_text(f"{MANIFEST}\n{json.dumps(said, sort_keys=True)}\n")
    return Made(facts, files, manifest, signer.verifier.text())


def content_of(
    question: Question,
    sections: list[Section],
    summary: list[tuple[str, str]],
    cut: list[Place],
    trees: Trees,
    signer: Signer,
) -> dict[str, Any]:
    """Everything that a report says, as JSON carries it."""
    places = {(place.topic, place.partition): place for place in cut}
    opened: dict[tuple[str, int], tuple[Tiles, str]] = {}
    shown = []
    for section in sections:
        rows = []
        for row in section.rows:
            key = (row.topic, row.partition)
            if key not in opened:
                opened[key] = trees.at(places[key])
            rows.append(row_of(row, opened[key][0], places[key].size))
        shown.append({"title": section.title, "rows": rows})
    return {
        "format": FORMAT,
        "report": question.report,
        "organisation_id": question.organisation_id,
        "parameters": question.parameters,
        "cut": ",".join(place.text() for place in cut),
        "public_key": signer.verifier.text(),
        "checkpoints": {f"{key[0]}-{key[1]}": note for key, (_, note) in sorted(opened.items())},
        "summary": [{"what": what, "value": value} for what, value in summary],
        "sections": shown,
    }


def row_of(row: Shown, tree: Tiles, size: int) -> dict[str, Any]:
    """An event with the proof that its record stands in the tree of this size."""
    index = index_of(tree, row.offset)
    if index is None or index >= size:
        told = f"offset {row.offset} of {row.topic}/{row.partition} is not in the signed tree"
        raise Rejected(Code.FAILED_PRECONDITION, told, "cut")
    path = inclusion_proof(index, size, tree.node)
    return {
        "event_id": row.event_id,
        "type": row.type,
        "at": row.at,
        "actor": row.actor,
        "stream": row.stream,
        "details": row.details,
        "log": f"{row.topic}-{row.partition}",
        "offset": row.offset,
        "proof": {
            "index": index,
            "leaf": base64.b64encode(tree.entry(index)).decode(),
            "path": [base64.b64encode(step).decode() for step in path],
        },
    }
