"""Answers questions about jobs from the scheduler's own tables.

1. SELECTs only. A job of another tenant is answered like an unknown one.
2. The queue shows everybody's place, and whose it is only to those who may see that project.
"""

from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import scheduler_pb2 as pb

__all__ = ["explain_job", "get_job", "get_queue", "list_jobs"]

PAGE = 100
VISIBLE = """(%(all)s OR project_id = ANY(%(projects)s)
    OR split_part(project_id, '.', 1) = ANY(%(organisations)s))"""
WAITS = frozenset((1, 2, 8, 12))
WAITING = "status IN (1, 2, 8, 12)"
IN_ORDER = "ORDER BY priority DESC, submitted_at_us, job_id"


async def job_row(
    job_id: str, caller: Caller, action: str, db: psycopg.AsyncConnection[Any]
) -> dict[str, Any]:
    """The row of a job that the caller may see, or Rejected."""
    cursor = await db.execute(
        f"SELECT * FROM jobs WHERE job_id = %(id)s AND {VISIBLE}",  # noqa: S608
        {"id": job_id, **caller.scope(action)._asdict()},
    )
    row = await cursor.fetchone()
    if row is None:
        raise Rejected(Code.NOT_FOUND, f"no job {job_id!r}", "job_id")
    return row


async def get_job(
    request: pb.GetJobRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.Job:
    """One job, with its metrics and its place in the queue."""
    row = await job_row(request.job_id, caller, "GetJob", db)
    job = job_of(row)
    cursor = await db.execute(
        "SELECT name, value, epoch, step FROM job_metrics WHERE job_id = %s ORDER BY name",
        (request.job_id,),
    )
    job.metrics.extend(pb.JobMetric(**one) for one in await cursor.fetchall())
    if waits(row):
        cursor = await db.execute(
            f"""
            SELECT count(*) AS ahead FROM jobs WHERE {WAITING} AND cluster_id = %(cluster_id)s
                AND (-priority, submitted_at_us, job_id)
                    < (-%(priority)s::int, %(submitted_at_us)s, %(job_id)s)
            """,  # noqa: S608
            row,
        )
        ahead = await cursor.fetchone()
        job.queue_position = ahead["ahead"] + 1 if ahead else 0
    return job


def waits(row: dict[str, Any]) -> bool:
    """True if a job stands in the queue."""
    return row["status"] in WAITS


async def list_jobs(
    request: pb.ListJobsRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.JobList:
    """Jobs that the caller may see, newest first."""
    limit = request.page_size or PAGE
    before_us, before_id = page_of(request.page_token)
    cursor = await db.execute(
        f"""
        SELECT * FROM jobs
        WHERE {VISIBLE} AND (%(project)s = '' OR project_id = %(project)s)
            AND (%(any)s OR status = ANY(%(statuses)s))
            AND (submitted_at_us, job_id) < (%(before_us)s, %(before_id)s)
        ORDER BY submitted_at_us DESC, job_id DESC LIMIT %(limit)s
        """,  # noqa: S608
        {
            "project": request.project_id,
            "any": not request.statuses,
            "statuses": list(request.statuses),
            "before_us": before_us,
            "before_id": before_id,
            "limit": limit + 1,
            **caller.scope("ListJobs")._asdict(),
        },
    )
    rows = await cursor.fetchall()
    answer = pb.JobList(jobs=[job_of(row) for row in rows[:limit]])
    if len(rows) > limit:
        last = rows[limit - 1]
        answer.next_page_token = f"{last['submitted_at_us']}/{last['job_id']}"
    return answer


def page_of(token: str) -> tuple[int, str]:
    """Where a page begins: before this job."""
    if not token:
        return 2**63 - 1, ""
    at_us, _, job_id = token.partition("/")
    if not at_us.isdecimal() or len(at_us) > 18:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"page_token: {token!r} is not one that an answer gave: leave it empty to begin",
            "page_token",
        )
    return int(at_us), job_id


async def get_queue(
    request: pb.GetQueueRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.Queue:
    """Who waits, in the order of a round."""
    cursor = await db.execute(
        f"""
        SELECT *, {VISIBLE} AS visible, count(*) OVER () AS waiting
        FROM jobs WHERE {WAITING} {IN_ORDER} LIMIT %(limit)s
        """,  # noqa: S608
        {"limit": request.page_size or PAGE, **caller.scope("GetQueue")._asdict()},
    )
    rows = await cursor.fetchall()
    return pb.Queue(
        entries=[entry_of(row, place) for place, row in enumerate(rows, 1)],
        waiting=rows[0]["waiting"] if rows else 0,
    )


def entry_of(row: dict[str, Any], place: int) -> pb.QueueEntry:
    """One who waits."""
    entry = pb.QueueEntry(
        position=place,
        priority=row["priority"],
        resources=pb.JobSpec.FromString(row["spec"]).resources,
        submitted_at_us=row["submitted_at_us"],
        reason=row["reason"],
        status=row["status"],
    )
    if row["visible"]:
        entry.job_id = row["job_id"]
        entry.name = row["name"]
        entry.project_id = row["project_id"]
        entry.submitted_by = row["submitted_by"]
    return entry


async def explain_job(
    request: pb.ExplainJobRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.JobExplanation:
    """The story of a job, each statement with its event; other jobs with the event of theirs."""
    row = await job_row(request.job_id, caller, "ExplainJob", db)
    cursor = await db.execute(
        """
        SELECT one.at_us, one.text, one.event_id, one.event_type, one.causation_id,
            one.other_job_id, coalesce(other.event_id, '') AS other_event_id, one.round_id
        FROM job_events one
        LEFT JOIN job_events other ON other.job_id = one.other_job_id AND other.version = 1
        WHERE one.job_id = %s AND one.event_type <> 'job.progressed'
        ORDER BY one.version
        """,
        (request.job_id,),
    )
    facts = [pb.ExplainedFact(**one) for one in await cursor.fetchall()]
    if waits(row):
        facts.extend(await group_facts(row["group_id"], db))
    status: pb.JobStatus = row["status"]
    summary = summary_of(row, facts)
    return pb.JobExplanation(job_id=request.job_id, status=status, summary=summary, facts=facts)


async def group_facts(group_id: str, db: psycopg.AsyncConnection[Any]) -> list[pb.ExplainedFact]:
    """Why jobs of this kind wait, as the last round said that changed it."""
    cursor = await db.execute(
        """
        SELECT reasons.*, coalesce(other.event_id, '') AS other_event_id
        FROM group_reasons reasons
        LEFT JOIN job_events other ON other.job_id = reasons.blocking_job_ids[1]
            AND other.version = 1
        WHERE group_id = %s
        """,
        (group_id,),
    )
    return [
        pb.ExplainedFact(
            at_us=one["at_us"],
            text=f"still waits: {one['detail']}",
            event_id=one["event_id"],
            event_type="round.decided",
            causation_id=one["causation_id"],
            other_job_id=next(iter(one["blocking_job_ids"]), ""),
            other_event_id=one["other_event_id"],
            round_id=one["round_id"],
        )
        for one in await cursor.fetchall()
    ]


def summary_of(row: dict[str, Any], facts: list[pb.ExplainedFact]) -> str:
    """The answer in one sentence: the last fact, and for a displaced job who displaced it."""
    name = pb.JobStatus.Name(row["status"]).removeprefix("JOB_STATUS_")
    last = facts[-1].text if facts else ""
    if row["status"] == pb.JOB_STATUS_PREEMPTED:
        displaced = next(fact for fact in reversed(facts) if fact.event_type == "job.preempted")
        return f"{name}: {displaced.text}"
    if row["status"] in (pb.JOB_STATUS_SCHEDULED, pb.JOB_STATUS_STARTING, pb.JOB_STATUS_RUNNING):
        placed = next(
            (fact for fact in reversed(facts) if fact.event_type == "job.placed"), facts[-1]
        )
        return f"{name}: {placed.text}"
    return f"{name}: {last}"


def job_of(row: dict[str, Any]) -> pb.Job:
    """A row of `jobs`."""
    job = pb.Job(
        job_id=row["job_id"],
        project_id=row["project_id"],
        cluster_id=row["cluster_id"],
        status=row["status"],
        spec=pb.JobSpec.FromString(row["spec"]),
        priority=row["priority"],
        submitted_by=row["submitted_by"],
        submitted_at_us=row["submitted_at_us"],
        started_at_us=row["started_at_us"],
        finished_at_us=row["finished_at_us"],
        run=row["run"],
        allocation_id=row["allocation_id"],
        node_id=row["node_id"],
        reason=row["reason"],
        reason_detail=row["reason_detail"],
        preemptions=row["preemptions"],
        retries=row["retries"],
        epoch=row["epoch"],
        step=row["step"],
        progress_basis_points=row["progress_basis_points"],
        version=row["version"],
        correlation_id=row["correlation_id"],
        isolation=row["isolation"],
    )
    if row["checkpoint"]:
        job.checkpoint.ParseFromString(row["checkpoint"])
    if row["result"]:
        job.result.ParseFromString(row["result"])
    return job
