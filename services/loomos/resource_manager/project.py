"""Turns the resource manager's events into rows: nodes, GPUs, allocations, counts."""

from loom.decider import Recorded, Statement
from loom.v1 import resource_manager_pb2 as pb

__all__ = ["project"]

REGISTERED = """
INSERT INTO nodes (node_id, cluster_id, hostname, registered, registered_at_us, version)
VALUES (%s, %s, %s, %s, %s, %s)
ON CONFLICT (node_id) DO UPDATE SET
    hostname = excluded.hostname, registered = excluded.registered, version = excluded.version
"""
GPUS_ABSENT = "UPDATE gpus SET present = false WHERE node_id = %s"
GPU = """
INSERT INTO gpus (gpu_uuid, node_id, gpu_index, gpu, present) VALUES (%s, %s, %s, %s, true)
ON CONFLICT (gpu_uuid) DO UPDATE SET
    node_id = excluded.node_id, gpu_index = excluded.gpu_index, gpu = excluded.gpu, present = true
"""
CONNECTED = """
UPDATE nodes SET connected = true, lost = false, connected_at_us = %s, version = %s
WHERE node_id = %s
"""
LOST = "UPDATE nodes SET lost = true, version = %s WHERE node_id = %s"
CORDONED = "UPDATE nodes SET cordoned = true, reason = %s, version = %s WHERE node_id = %s"
DRAINING = "UPDATE nodes SET draining = true, reason = %s, version = %s WHERE node_id = %s"
UNCORDONED = """
UPDATE nodes SET cordoned = false, draining = false, reason = '', version = %s WHERE node_id = %s
"""
GPU_CORDONED = "UPDATE gpus SET cordoned = true, cordon_reason = %s WHERE gpu_uuid = %s"
GPU_UNCORDONED = "UPDATE gpus SET cordoned = false, cordon_reason = '' WHERE gpu_uuid = %s"
VERSION = "UPDATE nodes SET version = %s WHERE node_id = %s"
GRANTED = """
INSERT INTO allocations (allocation_id, cluster_id, node_id, job_id, run, project_id, status,
    resources, cpu_milli, memory_bytes, gpu_milli, storage_bytes, gpu_uuids, granted_at_us,
    token_incarnation, token_epoch, token_offset)
VALUES (%s, %s, %s, %s, %s, %s, 1, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)
"""
STARTED = """
UPDATE allocations SET started_at_us = %s, status = CASE WHEN status = 1 THEN 2 ELSE status END
WHERE allocation_id = %s
"""
RELEASING = "UPDATE allocations SET status = 3 WHERE allocation_id = %s"
RELEASED = """
UPDATE allocations SET status = 4, released_at_us = %s, result = %s WHERE allocation_id = %s
"""
COUNTED = """
INSERT INTO grant_counts (cluster_id, granted, refused) VALUES (%s, %s, %s)
ON CONFLICT (cluster_id) DO UPDATE SET
    granted = grant_counts.granted + excluded.granted,
    refused = grant_counts.refused + excluded.refused
"""


def project(record: Recorded) -> list[Statement]:
    """The statements that bring the read models up to an event."""
    event, version = record.event, record.version
    match event:
        case pb.NodeRegistered():
            return registered(event, version)
        case pb.NodeConnected():
            return [Statement(CONNECTED, (event.at_us, version, event.node_id))]
        case pb.NodeLost():
            return [Statement(LOST, (version, event.node_id))]
        case pb.NodeCordoned():
            return [Statement(CORDONED, (event.reason, version, event.node_id))]
        case pb.NodeDrainRequested():
            return [Statement(DRAINING, (event.reason, version, event.node_id))]
        case pb.NodeUncordoned():
            return [Statement(UNCORDONED, (version, event.node_id))]
        case pb.GpuCordoned():
            cordoned = Statement(GPU_CORDONED, (event.reason, event.gpu_uuid))
            return [cordoned, Statement(VERSION, (version, event.node_id))]
        case pb.GpuUncordoned():
            uncordoned = Statement(GPU_UNCORDONED, (event.gpu_uuid,))
            return [uncordoned, Statement(VERSION, (version, event.node_id))]
        case pb.AllocationGranted():
            return granted(record, event)
        case pb.AllocationRefused():
            return [Statement(COUNTED, (record.shard, 0, 1))]
        case pb.AllocationStarted():
            return [Statement(STARTED, (event.at_us, event.allocation_id))]
        case pb.AllocationReleaseRequested():
            return [Statement(RELEASING, (event.allocation_id,))]
        case pb.AllocationReleased():
            result = event.result.SerializeToString(deterministic=True)
            return [Statement(RELEASED, (event.at_us, result, event.allocation_id))]
        case _:
            return []


def registered(event: pb.NodeRegistered, version: int) -> list[Statement]:
    """A node and its GPUs; those that it no longer names are kept as absent."""
    row = (
        event.node_id,
        event.cluster_id,
        event.hostname,
        event.SerializeToString(deterministic=True),
        event.at_us,
        version,
    )
    return [
        Statement(REGISTERED, row),
        Statement(GPUS_ABSENT, (event.node_id,)),
        *(
            Statement(
                GPU,
                (gpu.uuid, event.node_id, gpu.index, gpu.SerializeToString(deterministic=True)),
            )
            for gpu in event.gpus
        ),
    ]


def granted(record: Recorded, event: pb.AllocationGranted) -> list[Statement]:
    """An allocation with its fencing token: the place of its own event."""
    resources = event.run.spec.resources
    row = (
        event.allocation_id,
        event.cluster_id,
        event.node_id,
        event.run.job_id,
        event.run.run,
        event.run.project_id,
        resources.SerializeToString(deterministic=True),
        resources.cpu_milli,
        resources.memory_bytes,
        resources.gpu_milli,
        resources.storage_bytes,
        list(event.gpu_uuids),
        event.at_us,
        record.position.incarnation,
        record.epoch,
        record.position.offset,
    )
    return [Statement(GRANTED, row), Statement(COUNTED, (record.shard, 1, 0))]
