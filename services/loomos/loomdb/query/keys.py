"""Reads erasures and what is sealed for whom; foreign ones are answered like unknown ones."""

from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.sealing import digests_of
from loom.log.keystore import tag_of
from loom.v1 import common_pb2
from loom.v1 import loomdb_pb2 as pb

__all__ = ["dead_keys", "get_erasure", "list_erasures", "preview_erasure"]

PAGE = 100
COUNT = """
SELECT count(*) AS events, coalesce(min(at_us), 0) AS first, coalesce(max(at_us), 0) AS last
FROM sealed_events WHERE organisation_id = %s AND subject = %s
"""
ERASURES = """
SELECT erasures.*, (SELECT count(*) FROM sealed_events AS sealed
  WHERE sealed.organisation_id = erasures.organisation_id
  AND sealed.subject = erasures.subject AND sealed.at_us < erasures.ordered_at_us) AS events
FROM erasures WHERE organisation_id = %(organisation)s
"""
PAGE_OF = """ AND %(subject)s IN ('', subject) AND (%(cursor)s = '' OR
  (ordered_at_us, erasure_id) < (SELECT ordered_at_us, erasure_id FROM erasures
    WHERE erasure_id = %(cursor)s AND organisation_id = %(organisation)s))
ORDER BY ordered_at_us DESC, erasure_id DESC LIMIT %(limit)s
"""


async def preview_erasure(
    request: pb.PreviewErasureRequest, db: psycopg.AsyncConnection
) -> pb.ErasurePreview:
    """How many events hold something sealed for the subject."""
    cursor = await db.execute(COUNT, (request.organisation_id, request.subject))
    found: Any = await cursor.fetchone()
    return pb.ErasurePreview(
        subject=request.subject,
        events=found["events"],
        first_at_us=found["first"],
        last_at_us=found["last"],
    )


async def get_erasure(request: pb.GetErasureRequest, db: psycopg.AsyncConnection) -> pb.Erasure:
    """One erasure with its proof."""
    cursor = await db.execute(
        ERASURES + " AND erasure_id = %(erasure)s",
        {"organisation": request.organisation_id, "erasure": request.erasure_id},
    )
    row: Any = await cursor.fetchone()
    if row is None:
        told = f"no erasure {request.erasure_id!r}"
        raise Rejected(Code.NOT_FOUND, told, "erasure_id")
    return erasure(row)


async def list_erasures(
    request: pb.ListErasuresRequest, db: psycopg.AsyncConnection
) -> pb.ErasurePage:
    """Erasures, newest first."""
    limit = request.limit or PAGE
    cursor = await db.execute(
        ERASURES + PAGE_OF,
        {
            "organisation": request.organisation_id,
            "subject": request.subject,
            "cursor": request.cursor,
            "limit": limit + 1,
        },
    )
    rows: list[Any] = await cursor.fetchall()
    return pb.ErasurePage(
        erasures=[erasure(row) for row in rows[:limit]],
        next_cursor=rows[limit - 1]["erasure_id"] if len(rows) > limit else "",
    )


async def dead_keys(
    organisation_id: str, subject: str, db: psycopg.AsyncConnection
) -> list[pb.SealingKey]:
    """Keys that erasures destroyed."""
    cursor = await db.execute(
        "SELECT subject, tombstones FROM erasures WHERE organisation_id = %s "
        "AND %s IN ('', subject)",
        (organisation_id, subject),
    )
    rows: list[Any] = await cursor.fetchall()
    return [
        pb.SealingKey(
            key_id=one["key_id"],
            subject=whose(one["key_id"], organisation_id, row["subject"]),
            number=int(one["key_id"].partition(".")[2]),
            destroyed_at_us=one["destroyed_at_us"],
        )
        for row in rows
        for one in row["tombstones"]
    ]


def whose(key_id: str, organisation_id: str, subject: str) -> str:
    """Of a subject's erasure also the key died that digested what names no subject."""
    own = key_id.startswith(tag_of(organisation_id, subject))
    return subject if own else digests_of(organisation_id)


def erasure(row: dict[str, Any]) -> pb.Erasure:
    """A row as the contract says it."""
    found = pb.Erasure(
        erasure_id=row["erasure_id"],
        subject=row["subject"],
        ground=row["ground"],
        reason=row["reason"],
        ordered_by=row["ordered_by"],
        ordered_at_us=row["ordered_at_us"],
        event_id=row["event_id"],
        position=common_pb2.Position(**row["place"]),
        keys=[pb.KeyTombstone(**one) for one in row["tombstones"]],
        events=row["events"],
    )
    if row["completed_at_us"]:
        found.completed_at_us = row["completed_at_us"]
        found.completed_event_id = row["completed_event_id"]
        found.completed_position.CopyFrom(common_pb2.Position(**row["completed_place"]))
    return found
