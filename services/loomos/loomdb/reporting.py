"""Makes a report before its record is decided, and hands it out when the record is in the log.

1. A caller who may not have the report starts no work: the decision that follows refuses him.
2. What is handed out is what the record says: a command that is told again, when its first telling
   was decided on another cut, gets the report of that cut.
"""

import asyncio
from collections import OrderedDict
from typing import Any

from google.protobuf.message import Message

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.log.clock import now_us
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.decide import resource
from loomos.loomdb.decide.report import Report, name_of, parameters_of
from loomos.loomdb.proof import Place, Trees
from loomos.loomdb.query import report as rows
from loomos.loomdb.query.lineage import lineage
from loomos.loomdb.report.making import Made, Question, make
from loomos.loomdb.report.period import Period, period_of
from loomos.loomdb.seal import trees_of
from loomos.loomdb.subject import blinding, reader_of

__all__ = ["answered", "prepared"]

KEPT_MAX = 4
MADE: OrderedDict[bytes, Made] = OrderedDict()
"""What was made last, by the digest of its JSON: for the moment between decision and answer."""
MEDIA = {
    pb.REPORT_FORMAT_JSON: "application/json",
    pb.REPORT_FORMAT_HTML: "text/html; charset=utf-8",
    pb.REPORT_FORMAT_PDF: "application/pdf",
}


async def prepared(command: Report, caller: Caller, shell: Any) -> Message:
    """The command with what was found out; as it was where the caller may not ask this."""
    command.ClearField("facts")
    action = command.DESCRIPTOR.name.removesuffix("Request")
    concerned = resource(command, None)  # type: ignore[arg-type] - reads the command only
    if concerned is None or not caller.may(action, concerned).allowed:
        return command
    trees = trees_of(shell)
    cut = await asyncio.to_thread(cut_of, command.cut, trees)
    if cut:
        made = await made_at(command, cut, trees, caller, shell)
        command.facts.CopyFrom(made.facts)
    return command


async def answered(command: Report, receipt: Message, caller: Caller, shell: Any) -> pb.Report:
    """The report that the record in the log speaks of."""
    position = receipt.positions[0]  # type: ignore[attr-defined] - a receipt
    async with shell.db() as db:
        try:
            facts = await rows.issued(db, position.topic, position.partition, position.offset)
        except TimeoutError:
            told = "the report's record is not indexed yet: ask again with the same command id"
            raise Failure("UNAVAILABLE", told) from None
    trees = trees_of(shell)
    cut = await asyncio.to_thread(cut_of, str(facts["cut"]), trees)
    made = MADE.get(command.facts.json_sha256) if command.facts.cut == facts["cut"] else None
    made = made or await made_at(command, cut, trees, caller, shell)
    form = command.format or pb.REPORT_FORMAT_JSON
    return pb.Report(
        content=made.files[form],
        media_type=MEDIA[form],
        cut=made.facts.cut,
        rows=made.facts.rows,
        manifest=made.manifest,
        public_key=made.public_key,
        parts=made.facts.parts,
    )


async def made_at(
    command: Report, cut: list[Place], trees: Trees, caller: Caller, shell: Any
) -> Made:
    """The report at a cut, once the index has reached it."""
    organisation = command.organisation_id
    parts = 0
    async with shell.db() as db:
        await rows.settled(db, cut)
        match command:
            case pb.ReportAccessRequest():
                found = await rows.access(db, organisation, cut, ended(command.period))
            case pb.ReportActivityRequest():
                period = ended(command.period)
                found = await rows.activity(db, organisation, cut, period, command.actor)
            case pb.ReportLineageRequest():
                found = await lineage(db, organisation, cut, command.thing_id)
            case pb.ReportSubjectRequest():
                found, parts = await on_subject(command, cut, caller, shell, db)
    question = Question(name_of(command), organisation, parameters_of(command))
    made = await asyncio.to_thread(make, question, *found, cut, trees)
    made.facts.parts = parts if parts > 1 else 0
    if isinstance(command, pb.ReportSubjectRequest):
        # Plain values are not kept beyond the call.
        return made
    MADE[made.facts.json_sha256] = made
    while len(MADE) > KEPT_MAX:
        MADE.popitem(last=False)
    return made


async def on_subject(
    command: pb.ReportSubjectRequest, cut: list[Place], caller: Caller, shell: Any, db: Any
) -> tuple[rows.Content, int]:
    """The events that concern a subject, his own values plain where the caller may see them."""
    organisation, subject = command.organisation_id, command.subject_id
    reader = reader_of(caller, organisation, subject)

    async def opened(row: dict[str, Any]) -> dict[str, Any]:
        return await shell.sealing.open_dict(row["type"], row["payload"], row["event_id"], reader)

    (sections, summary), parts = await rows.subject(
        db, organisation, cut, subject, opened, command.part or 1
    )
    at = ",".join(place.text() for place in cut)
    if reader.principal and (value := await blinding(organisation, subject, at, shell)):
        summary = [*summary, ("blinding value", value)]
    return (sections, summary), parts


def ended(period: str) -> Period:
    """The period; one that still runs is reported as far as the cut goes."""
    found = period_of(period)
    if found.from_us > now_us():
        told = f"period is {period!r}, which has not begun: ask for one that has"
        raise Rejected(Code.INVALID_ARGUMENT, told, "period")
    return found


def cut_of(text: str, trees: Trees) -> list[Place]:
    """The places that a cut names, or the latest ones; none where nothing is signed."""
    if not text:
        return trees.places()
    places = []
    for part in text.split(","):
        name, _, size = part.partition(":")
        topic, _, partition = name.partition("/")
        if not (size.isdigit() and partition.isdigit() and len(size) < 19 and len(partition) < 5):
            told = f"cut names {part[:80]!r}: want topic/partition:size, as a report says it"
            raise Rejected(Code.INVALID_ARGUMENT, told, "cut")
        place = trees.place(topic, int(partition), int(size))
        if place is None:
            told = f"the cut names {topic[:64]}/{partition}, of which nothing is signed here"
            raise Rejected(Code.FAILED_PRECONDITION, told, "cut")
        places.append(place)
    return sorted(places)
