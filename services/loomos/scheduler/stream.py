"""Follows one job through the read models, which are milliseconds behind the log.

Invariant: each of the job's events is told once, in the order of its versions.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from loom.kit.authorize import Caller
from loom.v1 import scheduler_pb2 as pb
from loomos.scheduler.query import job_row

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["follow_job"]

LOOK_SECONDS = 0.2
ENDED = (pb.JOB_STATUS_COMPLETED, pb.JOB_STATUS_FAILED, pb.JOB_STATUS_CANCELLED)


async def follow_job(
    request: pb.FollowJobRequest, caller: Caller, shell: "Shell"
) -> AsyncIterator[pb.JobUpdate]:
    """Every event of a job, from its submission until it ends."""
    version = 0
    while True:
        async with shell.db() as db:
            await job_row(request.job_id, caller, "FollowJob", db)
            cursor = await db.execute(
                """
                SELECT version, update FROM job_events
                WHERE job_id = %s AND version > %s ORDER BY version LIMIT 1000
                """,
                (request.job_id, version),
            )
            rows = await cursor.fetchall()
        for row in rows:
            version = row["version"]
            update = pb.JobUpdate.FromString(row["update"])
            yield update
            if update.status in ENDED:
                return
        if not rows:
            await asyncio.sleep(LOOK_SECONDS)
