"""One node's session: its reports become commands in its own name, its orders come from the log.

1. Reports are told one after another and answered by number; a repeated one has the same command
   id, so it counts once, and one that is refused for good is answered too, so that it ends.
2. Heartbeats and logs never wait behind reports.
"""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.kit.call import Call
from loom.kit.errors import Failure
from loom.log.clock import now_us
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb
from loomos.resource_manager.stream.sessions import SESSIONS, Session

if TYPE_CHECKING:
    from loom.kit.service import Shell

__all__ = ["node_session"]

REPORTS_MAX = 1_000
RETRY_SECONDS = 0.2
RETRIED = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "CANCELLED", "INTERNAL")


async def node_session(
    reports: AsyncIterator[pb.NodeReport], caller: Caller, shell: "Shell"
) -> AsyncIterator[pb.NodeOrder]:
    """The one stream between a node's agent and the control plane."""
    kind, _, node_id = caller.principal.partition(":")
    if kind != "node":
        raise Rejected(Code.PERMISSION_DENIED, f"{caller.principal} is no node")
    first = await anext(reports)
    if first.WhichOneof("report") != "hello":
        raise Rejected(Code.INVALID_ARGUMENT, "the first report of a session is hello", "report")
    session = SESSIONS.enter(node_id, secrets.token_hex(16))
    tasks = [asyncio.create_task(listen(session, first.hello, reports, caller, shell))]
    try:
        while True:
            order = await session.orders.get()
            if order is None:
                break
            yield order
        if tasks[0].done() and (error := tasks[0].exception()) is not None:
            raise error
    finally:
        tasks[0].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        session.close()


async def listen(
    session: Session,
    hello: pb.NodeHello,
    reports: AsyncIterator[pb.NodeReport],
    caller: Caller,
    shell: "Shell",
) -> None:
    """Take reports until the stream ends; then end the session."""
    queue: asyncio.Queue[pb.NodeReport] = asyncio.Queue(REPORTS_MAX)
    telling = asyncio.create_task(tell_reports(session, queue, hello.boot_id, caller, shell))
    try:
        connect = pb.ConnectNodeRequest(
            node_id=session.node_id,
            session_id=session.session_id,
            boot_id=hello.boot_id,
            runs=hello.runs,
        )
        receipt = await shell.tell(connect, call_of(caller, f"connect-{session.session_id}", ""))
        assert isinstance(receipt, common_pb2.Receipt)
        check_log(hello.highest_token, receipt.positions[0])
        async for report in reports:
            session.heard_at_s = time.monotonic()
            match report.WhichOneof("report"):
                case "heartbeat":
                    lease = pb.LeaseExtended(heartbeat=report.heartbeat.number)
                    session.give(pb.NodeOrder(lease=lease))
                case "log":
                    session.pass_log(report.log)
                case "started" | "progress" | "checkpoint" | "finished":
                    await queue.put(report)
                case _:
                    raise Rejected(
                        Code.INVALID_ARGUMENT, "want a heartbeat, a log or a fact", "report"
                    )
    finally:
        telling.cancel()
        await asyncio.gather(telling, return_exceptions=True)
        session.close()


def check_log(highest: pb.FencingToken, here: common_pb2.Position) -> None:
    """Refuse a node that obeyed orders which this log does not have: it went back unannounced."""
    if (highest.incarnation, highest.offset) > (here.incarnation, here.offset):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"the node obeyed an order at {highest.incarnation}/{highest.offset}, this log ends at"
            f" {here.incarnation}/{here.offset}: restore it as a new incarnation",
            "hello.highest_token",
        )


async def tell_reports(
    session: Session,
    queue: asyncio.Queue[pb.NodeReport],
    boot_id: str,
    caller: Caller,
    shell: "Shell",
) -> None:
    """Tell reports in order; each ends accepted or refused for good."""
    while True:
        report = await queue.get()
        refusal = await tell_report(report, boot_id, caller, shell)
        accepted = pb.ReportAccepted(number=report.number, refusal=refusal)
        session.give(pb.NodeOrder(accepted=accepted))


async def tell_report(report: pb.NodeReport, boot_id: str, caller: Caller, shell: "Shell") -> str:
    """Why a report was refused; "" when the log has it."""
    fact: Message = getattr(report, str(report.WhichOneof("report")))
    allocation_id: str = getattr(fact, "allocation_id", "")
    call = call_of(
        caller, f"r-{boot_id[:40]}-{report.number}", SESSIONS.stories.get(allocation_id, "")
    )
    while True:
        try:
            await shell.tell(fact, call)
            return ""
        except Failure as failure:
            if failure.code not in RETRIED:
                return f"{failure.code}: {failure.message}"
        await asyncio.sleep(RETRY_SECONDS)


def call_of(caller: Caller, command_id: str, correlation_id: str) -> Call:
    """A command in the node's own name."""
    return Call(
        caller=caller,
        command_id=command_id,
        issued_at_us=now_us(),
        correlation_id=correlation_id or command_id,
        causation_id="",
        traceparent="",
        after=(),
        deadline_s=None,
    )
