"""Compares what the log says is served with what the runtime serves, and reports what is lost.

1. What is on its way is left alone: reported is only what was served and has nothing newer coming.
2. A runtime that does not answer says nothing about its models.
"""

import asyncio

from loom.kit.service import Shell
from loom.v1 import deployment_pb2 as pb
from loom.v1 import runtime_pb2

__all__ = ["lost", "watch"]

LOOK_SECONDS = 10.0
SERVED = """
SELECT deployment_id, project_id, serving_revision FROM deployments
WHERE serving_revision > 0 AND status = ANY(%s) ORDER BY deployment_id
"""
SETTLED = [pb.DEPLOYMENT_STATUS_ACTIVE, pb.DEPLOYMENT_STATUS_DEGRADED]
FORGOTTEN = "the runtime does not know it any more: its folder was lost or damaged. Deploy it again"
REASON_MAX = 2000


async def watch(shell: Shell) -> None:
    """Runs beside the service."""
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        try:
            for report in await lost(shell):
                await shell.tell(report)
        except Exception as error:  # noqa: BLE001 - runtime, database or log may be away: next time
            shell.log.warning("what is served could not be compared", reason=str(error).strip())


async def lost(shell: Shell) -> list[pb.ReportDeploymentFailedRequest]:
    """Reports about what the log says is served and the runtime cannot serve."""
    # First the tables: what they say is served was there before the runtime is asked.
    async with shell.db() as db:
        rows = await (await db.execute(SERVED, (SETTLED,))).fetchall()
    expected = [row for row in rows if shell.ownership.owns(row["project_id"])]
    if not expected:
        return []
    answer = await shell.client.ask(runtime_pb2.ListServedModelsRequest())
    assert isinstance(answer, runtime_pb2.ListServedModelsResponse)
    known = {one.deployment_id: one.failure for one in answer.models}
    told = {row["deployment_id"]: known.get(row["deployment_id"], FORGOTTEN) for row in expected}
    return [
        pb.ReportDeploymentFailedRequest(
            deployment_id=row["deployment_id"],
            revision=row["serving_revision"],
            reason=told[row["deployment_id"]][:REASON_MAX],
        )
        for row in expected
        if told[row["deployment_id"]]
    ]
