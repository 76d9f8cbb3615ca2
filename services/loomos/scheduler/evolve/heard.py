"""Folds what others said: nodes and allocations of the resource manager, limits of security.

1. Nodes and claims change at once, so that the next round sees them.
2. A fact about an allocation also waits in the inbox until a tick has settled it in this log.
"""

from google.protobuf.message import Message

from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import security_pb2 as security
from loomos.scheduler.evolve.index import add_claim, drop_claim, mark_node
from loomos.scheduler.state import Claim, Project, State, need_of, node_of

__all__ = ["hear"]

OPEN_TO_ALL = (
    common_pb2.DATA_CLASSIFICATION_PUBLIC,
    common_pb2.DATA_CLASSIFICATION_INTERNAL,
)


def hear(state: State, event: Message) -> None:
    """Change what is known of others; what nobody here cares about changes nothing."""
    match event:
        case rm.NodeRegistered():
            registered(state, event)
        case rm.NodeConnected():
            set_node(state, event.node_id, ready=True)
        case rm.NodeLost():
            set_node(state, event.node_id, ready=False)
        case rm.NodeCordoned() | rm.NodeDrainRequested():
            set_node(state, event.node_id, cordoned=True)
        case rm.NodeUncordoned():
            set_node(state, event.node_id, cordoned=False)
        case rm.GpuCordoned():
            state.nodes[event.node_id].cordoned_gpus.add(event.gpu_uuid)
            set_node(state, event.node_id)
        case rm.GpuUncordoned():
            state.nodes[event.node_id].cordoned_gpus.discard(event.gpu_uuid)
            set_node(state, event.node_id)
        case rm.AllocationGranted():
            granted(state, event)
        case rm.AllocationRefused() | rm.AllocationReleased():
            drop_claim(state, event.node_id, event.job_id, event.run)
            state.inbox.append(event)
        case (
            rm.AllocationStarted()
            | rm.AllocationProgressed()
            | rm.AllocationCheckpointed()
            | rm.AllocationReleaseRequested()
        ):
            state.inbox.append(event)
        case security.ProjectCreated():
            allowed = frozenset(event.classifications or OPEN_TO_ALL)
            state.projects[event.project_id] = Project(allowed)
        case security.DatasetAccessGranted():
            cleared(state, event).add(event.user_id)
        case security.DatasetAccessRevoked():
            cleared(state, event).discard(event.user_id)
        case security.QuotaSet():
            state.quotas[event.subject_id] = {
                limit.kind: (limit.limit, limit.enforcement == security.QUOTA_ENFORCEMENT_STRICT)
                for limit in event.limits
            }
        case _:
            pass


def registered(state: State, event: rm.NodeRegistered) -> None:
    """A node says what it has, at first or again; its claims and cordons outlast that."""
    node = node_of(event)
    before = state.nodes.get(event.node_id)
    if before is not None:
        node.claims, node.cordoned_gpus = before.claims, before.cordoned_gpus
        node.ready, node.cordoned, node.mark = before.ready, before.cordoned, before.mark
    state.nodes[event.node_id] = node
    set_node(state, event.node_id)


def set_node(state: State, node_id: str, **fields: bool) -> None:
    """Set fields of a node; a round may use the change."""
    node = state.nodes[node_id]
    for name, value in fields.items():
        setattr(node, name, value)
    mark_node(state, node)
    state.dirty = True


def granted(state: State, event: rm.AllocationGranted) -> None:
    """A place that was claimed is taken."""
    need = need_of(event.run.spec)
    claim = Claim(
        job_id=event.run.job_id,
        run=event.run.run,
        node_id=event.node_id,
        amounts=need.amounts,
        gpus=need.gpus,
        gpu_uuids=tuple(event.gpu_uuids),
        allocation_id=event.allocation_id,
    )
    node = state.nodes[event.node_id]
    known = node.claims.get(claim.job_id)
    claim.leaving = known is not None and known.run == claim.run and known.leaving
    add_claim(state, claim)
    state.inbox.append(event)


def cleared(
    state: State, event: security.DatasetAccessGranted | security.DatasetAccessRevoked
) -> set[str]:
    """The users to whom a project's data of one classification is open."""
    project = state.projects.setdefault(event.project_id, Project(frozenset(OPEN_TO_ALL)))
    return project.cleared.setdefault(event.classification, set())
