"""A run's log: read on its node, passed through the node's session to who asks.

Invariant: a slow reader delays nobody: the node is told to stop, and asked again from where the
reader stands once it has read what came.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.v1 import resource_manager_pb2 as pb
from loomos.resource_manager.query import VISIBLE
from loomos.resource_manager.stream.sessions import SESSIONS, Session

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["follow_job_logs"]


async def follow_job_logs(
    request: pb.FollowJobLogsRequest, caller: Caller, shell: "Shell"
) -> AsyncIterator[pb.LogChunk]:
    """The log of a job's latest run, or of the one named."""
    async with shell.db() as db:
        cursor = await db.execute(
            f"""
            SELECT node_id, run FROM allocations
            WHERE job_id = %(job)s AND (%(run)s = 0 OR run = %(run)s) AND {VISIBLE}
            ORDER BY run DESC LIMIT 1
            """,  # noqa: S608
            {
                "job": request.job_id,
                "run": request.run,
                **caller.scope("FollowJobLogs")._asdict(),
            },
        )
        row = await cursor.fetchone()
    if row is None:
        raise Rejected(Code.NOT_FOUND, f"no run of a job {request.job_id!r}", "job_id")
    session = SESSIONS.live.get(row["node_id"])
    if session is None or session.closed:
        raise Failure("UNAVAILABLE", f"{row['node_id']}, where the log lies, is away: retry")
    offset = request.offset
    while True:
        async for chunk in read(session, request, row["run"], offset):
            if chunk.offset == offset:
                offset += len(chunk.data)
                yield chunk
            if chunk.end:
                return
        if session.closed:
            yield pb.LogChunk(offset=offset, end=True, error="the node's session ended: ask again")
            return


async def read(
    session: Session, request: pb.FollowJobLogsRequest, run: int, offset: int
) -> AsyncIterator[pb.LogChunk]:
    """Chunks from an offset on, until the log ends or the reader did not keep up."""
    name = secrets.token_hex(16)
    chunks: asyncio.Queue[pb.LogChunk | None] = asyncio.Queue()
    session.logs[name] = chunks
    order = pb.SendLog(
        request_id=name, job_id=request.job_id, run=run, offset=offset, follow=request.follow
    )
    session.give(pb.NodeOrder(send_log=order))
    try:
        while (chunk := await chunks.get()) is not None:
            chunk.request_id = ""
            yield chunk
    finally:
        if session.logs.pop(name, None) is not None:
            session.give(pb.NodeOrder(stop_log=pb.StopLog(request_id=name)))
