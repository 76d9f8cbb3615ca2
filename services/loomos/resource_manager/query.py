"""Answers questions about nodes, GPUs and allocations from the resource manager's own tables.

1. SELECTs only. Nodes belong to the platform: whoever may ask at all sees them, but whose
   allocation holds a GPU is shown only to those who may see that project.
2. An allocation of another tenant is answered like an unknown one.
"""

from typing import Any

import psycopg

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb

__all__ = ["get_cluster_metrics", "get_node", "list_allocations", "list_gpus", "list_nodes"]

PAGE = 100
VISIBLE = """(%(all)s OR allocations.project_id = ANY(%(projects)s)
    OR split_part(allocations.project_id, '.', 1) = ANY(%(organisations)s))"""
NODES = """
SELECT nodes.*, coalesce(held.cpu_milli, 0) AS cpu_milli,
    coalesce(held.memory_bytes, 0) AS memory_bytes, coalesce(held.gpu_milli, 0) AS gpu_milli,
    coalesce(held.storage_bytes, 0) AS storage_bytes, coalesce(held.live, 0) AS live
FROM nodes LEFT JOIN (
    SELECT node_id, sum(cpu_milli)::bigint AS cpu_milli, sum(memory_bytes)::bigint AS memory_bytes,
        sum(gpu_milli)::bigint AS gpu_milli, sum(storage_bytes)::bigint AS storage_bytes,
        count(*) AS live
    FROM allocations WHERE status <> 4 GROUP BY node_id
) held USING (node_id)
"""


async def get_node(
    request: pb.GetNodeRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.Node:
    """One node with its GPUs."""
    cursor = await db.execute(f"{NODES} WHERE node_id = %s", (request.node_id,))
    row = await cursor.fetchone()
    if row is None:
        raise Rejected(Code.NOT_FOUND, f"no node {request.node_id!r}", "node_id")
    return node_of(row, await gpu_entries(request.node_id, caller, "GetNode", db))


async def list_nodes(
    request: pb.ListNodesRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.NodeList:
    """All nodes, by name."""
    cursor = await db.execute(f"{NODES} ORDER BY hostname, node_id")
    gpus = await gpu_entries("", caller, "ListNodes", db)
    by_node: dict[str, list[pb.GpuEntry]] = {}
    for entry in gpus:
        by_node.setdefault(entry.node_id, []).append(entry)
    nodes = [node_of(row, by_node.get(row["node_id"], [])) for row in await cursor.fetchall()]
    return pb.NodeList(
        nodes=[node for node in nodes if not request.statuses or node.status in request.statuses]
    )


async def list_gpus(
    request: pb.ListGpusRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.GpuList:
    """All GPUs, by node and index."""
    return pb.GpuList(gpus=await gpu_entries(request.node_id, caller, "ListGpus", db))


async def gpu_entries(
    node_id: str, caller: Caller, action: str, db: psycopg.AsyncConnection[Any]
) -> list[pb.GpuEntry]:
    """GPUs with what holds them."""
    cursor = await db.execute(
        f"""
        SELECT gpus.*, nodes.hostname, allocations.allocation_id IS NOT NULL AS allocated,
            CASE WHEN {VISIBLE} THEN allocations.allocation_id END AS holder
        FROM gpus JOIN nodes USING (node_id)
        LEFT JOIN allocations ON allocations.node_id = gpus.node_id AND allocations.status <> 4
            AND gpus.gpu_uuid = ANY(allocations.gpu_uuids)
        WHERE gpus.present AND (%(node)s = '' OR gpus.node_id = %(node)s)
        ORDER BY nodes.hostname, gpus.gpu_index, gpus.gpu_uuid
        """,  # noqa: S608
        {"node": node_id, **caller.scope(action)._asdict()},
    )
    return [
        pb.GpuEntry(
            gpu=pb.Gpu.FromString(row["gpu"]),
            node_id=row["node_id"],
            allocation_id=row["holder"] or "",
            cordoned=row["cordoned"],
            cordon_reason=row["cordon_reason"],
            allocated=row["allocated"],
            hostname=row["hostname"],
        )
        for row in await cursor.fetchall()
    ]


async def list_allocations(
    request: pb.ListAllocationsRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.AllocationList:
    """Allocations that the caller may see, newest first."""
    cursor = await db.execute(
        f"""
        SELECT * FROM allocations
        WHERE {VISIBLE} AND (%(job)s = '' OR job_id = %(job)s)
            AND (%(node)s = '' OR node_id = %(node)s) AND (%(released)s OR status <> 4)
        ORDER BY granted_at_us DESC, allocation_id LIMIT %(limit)s
        """,  # noqa: S608
        {
            "job": request.job_id,
            "node": request.node_id,
            "released": request.include_released,
            "limit": request.page_size or PAGE,
            **caller.scope("ListAllocations")._asdict(),
        },
    )
    return pb.AllocationList(allocations=[allocation_of(row) for row in await cursor.fetchall()])


async def get_cluster_metrics(
    request: pb.GetClusterMetricsRequest, caller: Caller, db: psycopg.AsyncConnection[Any]
) -> pb.ClusterMetrics:
    """How full the cluster is."""
    named = {"cluster": request.cluster_id}
    where = "WHERE (%(cluster)s = '' OR cluster_id = %(cluster)s)"
    cursor = await db.execute(f"{NODES} {where}", named)
    rows = await cursor.fetchall()
    cursor = await db.execute(
        f"""
        SELECT coalesce(sum(granted), 0)::bigint AS granted,
            coalesce(sum(refused), 0)::bigint AS refused
        FROM grant_counts {where}
        """,  # noqa: S608
        named,
    )
    counts = await cursor.fetchone() or {"granted": 0, "refused": 0}
    ready = [row for row in rows if status_of(row) == pb.NODE_STATUS_READY]
    names = {row["node_id"] for row in ready}
    gpus = [
        entry
        for entry in await gpu_entries("", caller, "GetClusterMetrics", db)
        if entry.node_id in names
    ]
    metrics = pb.ClusterMetrics(
        nodes_ready=len(ready),
        nodes=len(rows),
        gpus_healthy=sum(not entry.cordoned for entry in gpus),
        gpus_allocated=sum(entry.allocated for entry in gpus),
        allocations=sum(row["live"] for row in rows),
        allocations_granted=counts["granted"],
        allocations_refused=counts["refused"],
    )
    for row in ready:
        add(metrics.capacity, pb.NodeRegistered.FromString(row["registered"]).capacity)
        add(metrics.allocated, held_by(row))
    return metrics


def add(total: common_pb2.Resources, more: common_pb2.Resources) -> None:
    """Add resources to a total."""
    total.cpu_milli += more.cpu_milli
    total.memory_bytes += more.memory_bytes
    total.gpu_milli += more.gpu_milli
    total.storage_bytes += more.storage_bytes


def held_by(row: dict[str, Any]) -> common_pb2.Resources:
    """What is taken of a node."""
    return common_pb2.Resources(
        cpu_milli=row["cpu_milli"],
        memory_bytes=row["memory_bytes"],
        gpu_milli=row["gpu_milli"],
        storage_bytes=row["storage_bytes"],
    )


def status_of(row: dict[str, Any]) -> pb.NodeStatus:
    """Where in its life a node is."""
    if row["lost"]:
        return pb.NODE_STATUS_LOST
    if row["draining"]:
        return pb.NODE_STATUS_DRAINING
    if row["cordoned"]:
        return pb.NODE_STATUS_CORDONED
    return pb.NODE_STATUS_READY if row["connected"] else pb.NODE_STATUS_REGISTERED


def node_of(row: dict[str, Any], gpus: list[pb.GpuEntry]) -> pb.Node:
    """A row of `nodes`."""
    registered = pb.NodeRegistered.FromString(row["registered"])
    return pb.Node(
        node_id=row["node_id"],
        cluster_id=row["cluster_id"],
        hostname=row["hostname"],
        status=status_of(row),
        reason=row["reason"],
        capacity=registered.capacity,
        allocated=held_by(row),
        gpus=gpus,
        labels=registered.labels,
        lease_seconds=registered.lease_seconds,
        registered_at_us=row["registered_at_us"],
        connected_at_us=row["connected_at_us"],
        version=row["version"],
        allocations=row["live"],
        agent_version=registered.agent_version,
    )


def allocation_of(row: dict[str, Any]) -> pb.Allocation:
    """A row of `allocations`."""
    allocation = pb.Allocation(
        allocation_id=row["allocation_id"],
        node_id=row["node_id"],
        job_id=row["job_id"],
        run=row["run"],
        project_id=row["project_id"],
        status=row["status"],
        resources=common_pb2.Resources.FromString(row["resources"]),
        gpu_uuids=row["gpu_uuids"],
        granted_at_us=row["granted_at_us"],
        started_at_us=row["started_at_us"],
        released_at_us=row["released_at_us"],
        token=pb.FencingToken(
            incarnation=row["token_incarnation"],
            epoch=row["token_epoch"],
            offset=row["token_offset"],
        ),
    )
    if row["result"]:
        allocation.result.ParseFromString(row["result"])
    return allocation
