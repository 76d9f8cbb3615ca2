"""Scheduler and resource manager on a real Postgres: a life is projected and asked about."""

from collections.abc import AsyncIterator
from types import ModuleType
from typing import Any

import pytest
from cluster import Cluster, node, spec
from google.protobuf.message import Message

from loom.catalogue import type_of
from loom.decider import Code, Position, Recorded, Rejected
from loom.kit.authorize import Scope
from loom.store import Store
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.resource_manager import main as rm_main
from loomos.resource_manager import query as rm_query
from loomos.scheduler import main as scheduler_main
from loomos.scheduler import query

pytestmark = [pytest.mark.bus, pytest.mark.db]


class Reader:
    """Who may see these projects, or everything."""

    def __init__(self, *projects: str) -> None:
        self.projects = list(projects)

    def scope(self, action: str) -> Scope:
        return Scope(all=not self.projects, organisations=[], projects=self.projects)


async def store_of(platform: Any, main: ModuleType, log: list[Message]) -> Store:
    """The service's tables after this log."""
    service = main.SERVICE
    store = Store(platform.settings(service.name).postgres, service.name.replace("-", "_"))
    await store.open()
    await store.prepare(service.schema)
    versions: dict[str, int] = {}
    async with store.connection() as db:
        for offset, event in enumerate(log):
            stream = str(getattr(event, event.DESCRIPTOR.fields[0].name))
            versions[stream] = versions.get(stream, 0) + 1
            at_us = getattr(event, "at_us", 0)
            place = Position(service.topic, 0, offset)
            record = Recorded(
                event, type_of(event.DESCRIPTOR), f"e{offset}", stream, versions[stream], "local",
                place, at_us, "service:x", f"c{offset}", "story", "cause", 3,
            )  # fmt: skip
            for statement in service.project(record):
                await db.execute(statement.sql, statement.parameters)
    return store


async def empty(store: Store) -> None:
    async with store.connection() as db:
        tables = await (
            await db.execute("SELECT tablename FROM pg_tables WHERE schemaname = current_schema")
        ).fetchall()
        for row in tables:
            if row["tablename"] not in ("schema_version", "positions", "snapshots"):
                await db.execute(f"TRUNCATE {row['tablename']}")
    await store.close()


class Life:
    """A victim, the urgent job that displaced it, one that asks too much, one of another tenant."""

    def __init__(self) -> None:
        self.cluster = cluster = Cluster(node("a", cpus=2, gpus=1))
        self.victim = cluster.submit(spec(cpus=2))
        cluster.settle()
        cluster.start(self.victim)
        cluster.checkpoint(self.victim, 3)
        held = cluster.held(self.victim)
        cluster.tell_books(
            rm.ReportAllocationProgressRequest(
                allocation_id=held.allocation_id,
                run=1,
                epoch=3,
                metrics=[pb.JobMetric(name="accuracy", value=0.9, epoch=3)],
            )
        )
        self.urgent = cluster.submit(spec(cpus=2, priority=pb.PRIORITY_CLASS_URGENT))
        cluster.settle()
        cluster.finish(self.victim, 75)
        cluster.start(self.urgent)
        self.huge = cluster.submit(spec(cpus=64))
        cluster.settle()


@pytest.fixture
async def life(platform: Any) -> AsyncIterator[tuple[Life, Store, Store]]:
    found = Life()
    jobs = await store_of(platform, scheduler_main, found.cluster.jobs_log)
    books = await store_of(platform, rm_main, found.cluster.books_log)
    yield found, jobs, books
    await empty(jobs)
    await empty(books)


async def test_jobs_queue_and_reasons(life: tuple[Life, Store, Store]):
    story, store, _ = life
    reader: Any = Reader()
    async with store.connection() as db:
        job = await query.get_job(pb.GetJobRequest(job_id=story.victim), reader, db)
        assert job.status == pb.JOB_STATUS_PREEMPTED
        assert (job.run, job.preemptions, job.checkpoint.epoch) == (1, 1, 3)
        assert job.metrics[0].value == 0.9
        assert job.queue_position == 1
        urgent = await query.get_job(pb.GetJobRequest(job_id=story.urgent), reader, db)
        assert urgent.status == pb.JOB_STATUS_RUNNING
        queue = await query.get_queue(pb.GetQueueRequest(), reader, db)
        assert [entry.job_id for entry in queue.entries] == [story.victim, story.huge]
        assert queue.waiting == 2
        huge = await query.get_job(pb.GetJobRequest(job_id=story.huge), reader, db)
        assert huge.reason == pb.UNPLACED_REASON_EXCEEDS_EVERY_NODE
        page = await query.list_jobs(pb.ListJobsRequest(page_size=2), reader, db)
        rest = await query.list_jobs(
            pb.ListJobsRequest(page_size=2, page_token=page.next_page_token), reader, db
        )
        seen = {job.job_id for job in (*page.jobs, *rest.jobs)}
        assert seen == {story.victim, story.urgent, story.huge}
        some = pb.ListJobsRequest(statuses=[pb.JOB_STATUS_RUNNING])
        assert len((await query.list_jobs(some, reader, db)).jobs) == 1


async def test_why_names_the_job_and_the_events(life: tuple[Life, Store, Store]):
    story, store, _ = life
    reader: Any = Reader()
    async with store.connection() as db:
        why = await query.explain_job(pb.ExplainJobRequest(job_id=story.victim), reader, db)
    assert story.urgent in why.summary
    displaced = next(fact for fact in why.facts if fact.event_type == "job.preempted")
    assert displaced.other_job_id == story.urgent
    assert displaced.other_event_id
    assert displaced.round_id.startswith("round-local-")


async def test_another_tenant_sees_places_and_no_names(life: tuple[Life, Store, Store]):
    story, jobs, books = life
    stranger: Any = Reader("other.project")
    async with jobs.connection() as db:
        with pytest.raises(Rejected) as refusal:
            await query.get_job(pb.GetJobRequest(job_id=story.victim), stranger, db)
        assert refusal.value.code == Code.NOT_FOUND
        queue = await query.get_queue(pb.GetQueueRequest(), stranger, db)
        assert [entry.job_id for entry in queue.entries] == ["", ""]
    async with books.connection() as db:
        asked = rm.ListAllocationsRequest(include_released=True)
        assert not (await rm_query.list_allocations(asked, stranger, db)).allocations


async def test_nodes_gpus_allocations_and_metrics(life: tuple[Life, Store, Store]):
    story, _, store = life
    reader: Any = Reader()
    async with store.connection() as db:
        (one,) = (await rm_query.list_nodes(rm.ListNodesRequest(), reader, db)).nodes
        assert (one.status, one.allocated.cpu_milli) == (rm.NODE_STATUS_READY, 2000)
        same = await rm_query.get_node(rm.GetNodeRequest(node_id=one.node_id), reader, db)
        assert same == one
        (gpu,) = (await rm_query.list_gpus(rm.ListGpusRequest(), reader, db)).gpus
        assert (gpu.gpu.uuid, gpu.allocated) == ("GPU-a0", False)
        (held,) = (
            await rm_query.list_allocations(rm.ListAllocationsRequest(), reader, db)
        ).allocations
        assert (held.job_id, held.token.epoch) == (story.urgent, 3)
        every = rm.ListAllocationsRequest(include_released=True, job_id=story.victim)
        (ended,) = (await rm_query.list_allocations(every, reader, db)).allocations
        assert ended.result.exit_code == 75
        metrics = await rm_query.get_cluster_metrics(rm.GetClusterMetricsRequest(), reader, db)
        assert (metrics.nodes_ready, metrics.allocations, metrics.allocations_granted) == (1, 1, 2)
