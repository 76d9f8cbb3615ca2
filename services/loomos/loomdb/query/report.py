"""The rows of compliance reports: events of the audit index up to a cut.

1. Order and content are functions of the log up to the cut alone.
2. A report has at most ROWS_MAX events; more are an error that says how to ask for less, never a
   report that leaves some out. What concerns a subject comes in parts of PART_ROWS, each of which
   says which one of how many it is.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString, cast

import psycopg

from loom.decider import Code, Rejected
from loom.kit.errors import Failure
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.proof import Place
from loomos.loomdb.query.place import SHOWN, projected
from loomos.loomdb.report.making import Section, Shown
from loomos.loomdb.report.period import Period

__all__ = [
    "FROM_CUT",
    "ORDER",
    "PART_ROWS",
    "ROWS_MAX",
    "Content",
    "access",
    "activity",
    "issued",
    "parameters",
    "select",
    "settled",
    "shown",
    "subject",
    "too_many",
]

ROWS_MAX = 2000
PART_ROWS = 250
"""Of a report that is made twice, before its record and after it."""
SETTLE_S = 10.0
DETAILS_MAX = 400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
HIDDEN = ("_sha256", "_hash", "public_key", "content", "ciphertext")
"""Ends of names whose values nobody reads in a report."""

USERS = "loomos.data"
IN_FORCE = {
    "role.granted": "role.revoked",
    "dataset.access.granted": "dataset.access.revoked",
    "api.key.created": "api.key.revoked",
}
CHANGES = (
    "organisation.created", "project.created", "user.created", "user.suspended", "user.reinstated",
    "user.locked", "password.set", "role.granted", "role.revoked", "dataset.access.granted",
    "dataset.access.revoked", "api.key.created", "api.key.revoked", "quota.set",
    "join.token.created", "node.joined",
)  # fmt: skip
FAILURES = ("login.failed", "command.refused")
COUNTED = ("login.succeeded", "token.issued", "audit.trail.read", "report.issued")
FROM_CUT = """
FROM audit_events AS e JOIN
  unnest(%(topics)s::text[], %(partitions)s::int[], %(lasts)s::bigint[]) AS cut(topic, partition, l)
  ON e.topic = cut.topic AND e.partition = cut.partition AND e.record_offset <= cut.l
WHERE (%(all)s OR e.organisation_id = %(organisation)s)"""
ORDER = "e.at_us, e.topic, e.partition, e.record_offset"

Rows = Sequence[dict[str, Any]]
Content = tuple[list[Section], list[tuple[str, str]]]


async def access(
    db: psycopg.AsyncConnection, organisation: str, cut: list[Place], period: Period
) -> Content:
    """Access in force at the period's end, what changed in it, what was refused."""
    # What users append says nothing of access, whatever type it was once given.
    named = f"e.type = ANY(%(types)s) AND e.topic <> '{USERS}'"
    inside = f"{named} AND e.at_us >= %(from)s AND e.at_us < %(to)s"
    given = parameters(organisation, cut, period)
    before = await select(
        db,
        f"{named} AND e.at_us < %(to)s",
        given | {"types": [*IN_FORCE, *IN_FORCE.values()]},
    )
    changes = await select(db, inside, given | {"types": list(CHANGES)})
    failures = await select(db, inside, given | {"types": list(FAILURES)})
    text = f"SELECT e.type, count(*) AS n {FROM_CUT} AND {inside}"
    text += " GROUP BY e.type"
    found = await db.execute(cast(LiteralString, text), given | {"types": list(COUNTED)})
    counts = {str(row["type"]): int(row["n"]) for row in cast(Rows, await found.fetchall())}
    summary = [(f"events of type {name}", str(counts.get(name, 0))) for name in COUNTED]
    return [
        Section(f"Access in force at the end of {period.name}", shown(in_force(before, period))),
        Section(f"Changes of access in {period.name}", shown(changes)),
        Section(f"Refused and failed in {period.name}", shown(failures)),
    ], summary


def in_force(rows: Rows, period: Period) -> Rows:
    """The grants that no later event took back and that have not run out."""
    standing: dict[tuple[str, str], dict[str, Any]] = {}
    ends = {end: begin for begin, end in IN_FORCE.items()}
    for row in rows:
        payload = dict(row["payload"])
        begin = ends.get(str(row["type"]), str(row["type"]))
        if begin == "api.key.created":
            what = str(payload.get("api_key_id"))
        else:
            what = json.dumps(payload, sort_keys=True)
        if row["type"] in IN_FORCE:
            standing[begin, what] = row
        else:
            standing.pop((begin, what), None)
    return [
        row
        for row in standing.values()
        if not 0 < int(row["payload"].get("expires_at_us") or 0) <= period.to_us
    ]


async def activity(
    db: psycopg.AsyncConnection, organisation: str, cut: list[Place], period: Period, actor: str
) -> Content:
    """What one user, or each of them, did."""
    who = "e.actor = %(actor)s" if actor else "e.actor LIKE 'user:%%'"
    rows = await select(
        db,
        f"{who} AND e.at_us >= %(from)s AND e.at_us < %(to)s",
        parameters(organisation, cut, period) | {"actor": actor},
    )
    counts = Counter((row["actor"], row["type"]) for row in rows)
    summary = [(f"{actor} {kind}", str(n)) for (actor, kind), n in sorted(counts.items())]
    actors = sorted({row["actor"] for row in rows})
    return [
        Section(one, shown([row for row in rows if row["actor"] == one])) for one in actors
    ], summary


async def subject(
    db: psycopg.AsyncConnection,
    organisation: str,
    cut: list[Place],
    subject_id: str,
    opened: Callable[[dict[str, Any]], Awaitable[dict[str, Any]]],
    part: int = 1,
) -> tuple[Content, int]:
    """Every event that a person caused, or that names them, and how many parts they make.

    `opened` gives a row's payload.
    """
    where = "(e.actor = %(actor)s OR e.stream = %(id)s"
    where += " OR position(%(quoted)s IN e.payload::text) > 0)"
    given = parameters(organisation, cut)
    given |= {"actor": f"user:{subject_id}", "id": subject_id, "quoted": json.dumps(subject_id)}
    text = f"SELECT e.type, count(*) AS n {FROM_CUT} AND {where} GROUP BY e.type"
    found = await db.execute(cast(LiteralString, text), given)
    kinds = {str(row["type"]): int(row["n"]) for row in cast(Rows, await found.fetchall())}
    whole = sum(kinds.values())
    parts = -(-whole // PART_ROWS) or 1
    if part > parts:
        raise Rejected(
            Code.INVALID_ARGUMENT, f"part is {part}: at this cut there are {parts}", "part"
        )
    rows = await select(db, where, given, part)
    rows = [row | {"payload": await opened(row)} for row in rows]
    own = [row for row in rows if row["actor"] == f"user:{subject_id}"]
    others = [row for row in rows if row["actor"] != f"user:{subject_id}"]
    summary = [(f"events of type {kind}", str(n)) for kind, n in sorted(kinds.items())]
    if parts > 1:
        first = (part - 1) * PART_ROWS
        told = f"{part} of {parts}: events {first + 1} to {first + len(rows)} of {whole}"
        summary.insert(0, ("part", told))
    sections = [Section("What they did", shown(own)), Section("What concerns them", shown(others))]
    return (sections, summary), parts


async def settled(db: psycopg.AsyncConnection, cut: Iterable[Place]) -> None:
    """Wait until the index holds everything up to the cut."""
    wanted = {(place.topic, place.partition): place.last_offset for place in cut}
    try:
        async with asyncio.timeout(SETTLE_S):
            while wanted:
                for place, base in (await projected(db)).items():
                    if base.offset > wanted.get(place, 1 << 62):
                        del wanted[place]
                if wanted:
                    await asyncio.sleep(0.05)
    except TimeoutError:
        told = f"the index has not reached offset {min(wanted.values())} of {min(wanted)}: retry"
        raise Failure("UNAVAILABLE", told, "cut") from None


async def issued(
    db: psycopg.AsyncConnection, topic: str, partition: int, offset: int
) -> dict[str, Any]:
    """What the report.issued event at a position says was found."""
    async with asyncio.timeout(SETTLE_S):
        while True:
            found = await db.execute(
                "SELECT payload FROM audit_events WHERE topic = %s AND partition = %s "
                "AND record_offset = %s",
                (topic, partition, offset),
            )
            row = cast("dict[str, Any] | None", await found.fetchone())
            if row is not None:
                return dict(row["payload"].get("facts") or {})
            await asyncio.sleep(0.02)


def parameters(organisation: str, cut: list[Place], period: Period | None = None) -> dict[str, Any]:
    """What every statement here is given."""
    given: dict[str, Any] = {
        "all": organisation == PLATFORM,
        "organisation": organisation,
        "topics": [place.topic for place in cut],
        "partitions": [place.partition for place in cut],
        "lasts": [place.last_offset for place in cut],
    }
    return given | ({"from": period.from_us, "to": period.to_us} if period else {})


async def select(
    db: psycopg.AsyncConnection, where: str, given: dict[str, Any], part: int = 0
) -> Rows:
    """Rows up to the cut, oldest first, all or one part; `where` is made of constants."""
    limit = f"{PART_ROWS} OFFSET {(part - 1) * PART_ROWS:d}" if part else f"{ROWS_MAX + 1}"
    text = f"SELECT {SHOWN} {FROM_CUT} AND {where} ORDER BY {ORDER} LIMIT {limit}"
    rows = cast(Rows, await (await db.execute(cast(LiteralString, text), given)).fetchall())
    if len(rows) > ROWS_MAX:
        raise too_many()
    return rows


def too_many() -> Rejected:
    """The refusal of a report that would be too long."""
    told = f"more than {ROWS_MAX} events: ask for a shorter period, one user or a later thing"
    return Rejected(Code.FAILED_PRECONDITION, told, "period")


def shown(rows: Rows) -> list[Shown]:
    """Rows as a report shows them."""
    return [
        Shown(
            row["event_id"],
            row["type"],
            (EPOCH + timedelta(microseconds=row["at_us"])).isoformat(timespec="milliseconds"),
            row["actor"],
            row["stream"],
            details_of(row["payload"]),
            row["topic"],
            row["partition"],
            row["record_offset"],
        )
        for row in rows
    ]


def details_of(payload: dict[str, Any]) -> str:
    """What an event says, in one line, without digests and contents."""
    told = "; ".join(told_of("", payload))
    return told if len(told) <= DETAILS_MAX else told[: DETAILS_MAX - 1] + "…"


def told_of(prefix: str, value: Any) -> list[str]:
    """`name=value` for each leaf of a payload, names in order."""
    if isinstance(value, dict):
        parts = []
        for name in sorted(value):
            if not name.endswith(HIDDEN):
                parts += told_of(f"{prefix}.{name}" if prefix else name, value[name])
        return parts
    if isinstance(value, list):
        return [f"{prefix}={json.dumps(value, ensure_ascii=False, sort_keys=True)}"]
    return [f"{prefix}={value}"]
