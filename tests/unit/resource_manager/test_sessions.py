"""Sessions: orders follow the log with growing tokens; silence is noticed, slow readers cut off."""

import asyncio

import pytest
from cluster import Cluster, node, spec
from google.protobuf.message import Message

from loom.decider import Position, Recorded, Rejected
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.resource_manager.stream.session import check_log
from loomos.resource_manager.stream.sessions import CHUNKS_MAX, Session, Sessions

A = node("a").node_id


def hear(sessions: Sessions, log: list[Message], since: int = 0) -> None:
    """Let the sessions read the log from an offset on."""
    for offset, event in enumerate(log[since:], since):
        place = Position("loomos.resource-manager", 0, offset)
        record = Recorded(
            event, "", "", "", 1, "local", place, 0, "", "", f"story-{offset}", "", epoch=2
        )
        sessions.heard(record)


def orders(session: Session) -> list[rm.NodeOrder]:
    found = []
    while not session.orders.empty():
        order = session.orders.get_nowait()
        assert order is not None
        found.append(order)
    return found


def kinds(given: list[rm.NodeOrder]) -> list[str | None]:
    return [order.WhichOneof("order") for order in given]


async def test_orders_begin_with_reconcile_and_their_tokens_grow():
    cluster = Cluster()
    cluster.tell_books(node("a"))
    sessions = Sessions()
    cluster.told = 0
    session = sessions.enter(A, "s1")
    cluster.connect(A)
    job_id = cluster.submit(spec(inputs=[pb.InputFile(path="a", content=b"x")]))
    cluster.settle()
    cluster.tell(pb.CancelJobRequest(job_id=job_id))
    hear(sessions, cluster.books_log)
    given = orders(session)
    assert kinds(given) == ["reconcile", "start", "stop"]
    assert [order.token.offset for order in given] == sorted(o.token.offset for o in given)
    assert given[0].token.epoch == 2
    assert given[0].reconcile.lease_seconds == 10
    assert given[1].start.run.spec.inputs[0].content == b"x"
    assert given[2].stop.reason == pb.STOP_REASON_CANCELLED


async def test_what_was_not_started_is_ordered_again_by_the_next_session():
    cluster = Cluster(node("a"))
    cluster.submit(spec())
    cluster.settle()
    sessions = Sessions()
    hear(sessions, cluster.books_log)
    known = len(cluster.books_log)
    cluster.told = 100
    session = sessions.enter(A, "s101")
    cluster.connect(A)
    hear(sessions, cluster.books_log, known)
    (order,) = orders(session)
    (start,) = order.reconcile.starts
    assert start.run.run == 1
    assert start.allocation_id in sessions.stories


async def test_a_newer_session_ends_the_older_one():
    sessions = Sessions()
    older = sessions.enter(A, "s1")
    newer = sessions.enter(A, "s2")
    assert older.closed
    assert older.orders.get_nowait() is None
    assert sessions.live[A] is newer


async def test_a_node_is_silent_after_its_lease_and_never_before_this_process_knew_it():
    cluster = Cluster(node("a", lease_seconds=5), node("b"))
    sessions = Sessions(began_at_s=100.0)
    hear(sessions, cluster.books_log)
    assert sessions.silent(105.0) == []
    assert sessions.silent(105.5) == [(A, "")]
    session = sessions.enter(A, "s9")
    session.heard_at_s = 108.0
    assert sessions.silent(112.0) == [(node("b").node_id, "")]
    assert (A, "s9") in sessions.silent(113.5)
    cluster.tell_books(rm.ReportNodeLostRequest(node_id=A))
    hear(sessions, cluster.books_log)
    assert A not in sessions.leases


async def test_a_slow_reader_of_a_log_is_cut_off_and_the_node_told_to_stop():
    sessions = Sessions()
    session = sessions.enter(A, "s1")
    chunks: asyncio.Queue[rm.LogChunk | None] = asyncio.Queue()
    session.logs["r1"] = chunks
    for offset in range(CHUNKS_MAX + 1):
        session.pass_log(rm.LogChunk(request_id="r1", offset=offset))
    assert session.logs == {}
    assert kinds(orders(session)) == ["stop_log"]
    assert chunks.qsize() == CHUNKS_MAX + 1


def test_a_node_that_obeyed_a_longer_log_is_refused():
    here = common_pb2.Position(offset=9)
    check_log(rm.FencingToken(offset=8, epoch=3), here)
    check_log(rm.FencingToken(offset=99), common_pb2.Position(offset=9, incarnation=1))
    with pytest.raises(Rejected):
        check_log(rm.FencingToken(offset=10), here)
