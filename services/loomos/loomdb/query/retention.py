"""Reads rules, holds and what is archived."""

from google.protobuf import json_format

from loom.kit.authorize import Caller
from loom.store import Connection
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.retention import DEFAULTS, REGULATED_DAYS

__all__ = ["get_log_retention", "list_archive"]


async def get_log_retention(
    request: pb.GetLogRetentionRequest, caller: Caller, db: Connection
) -> pb.LogRetention:
    """An organisation's rules and holds; whoever asks was let in for that organisation."""
    answer = pb.LogRetention(defaults=DEFAULTS, regulated_retain_days=REGULATED_DAYS)
    own = (request.organisation_id,)
    rules = await db.execute("SELECT rules FROM retention_rules WHERE organisation_id = %s", own)
    for row in await rules.fetchall():
        said = pb.LogRetentionSet()
        json_format.ParseDict(row["rules"], said)
        answer.rules.extend(said.rules)
    holds = await db.execute(
        "SELECT hold FROM holds WHERE organisation_id = %s ORDER BY placed_at_us, hold_id", own
    )
    for row in await holds.fetchall():
        placed = pb.HoldPlaced()
        json_format.ParseDict(row["hold"], placed)
        answer.holds.add(
            hold_id=placed.hold_id,
            scope=placed.scope,
            reason=placed.reason,
            placed_at_us=placed.placed_at_us,
            placed_by=placed.placed_by,
        )
    return answer


async def list_archive(
    request: pb.ListArchiveRequest, caller: Caller, db: Connection
) -> pb.ArchivePage:
    """Archived ranges, and where Kafka begins."""
    page = pb.ArchivePage()
    wanted = (request.topic,)
    ranges = await db.execute(
        "SELECT range FROM archived_ranges WHERE %s IN ('', topic) "
        "ORDER BY topic, partition, first_offset",
        wanted,
    )
    for row in await ranges.fetchall():
        json_format.ParseDict(row["range"], page.ranges.add())
    beginnings = await db.execute(
        "SELECT topic, partition, first_offset FROM log_beginnings WHERE %s IN ('', topic) "
        "ORDER BY topic, partition",
        wanted,
    )
    for row in await beginnings.fetchall():
        page.beginnings.add(
            topic=row["topic"], partition=row["partition"], offset=row["first_offset"]
        )
    return page
