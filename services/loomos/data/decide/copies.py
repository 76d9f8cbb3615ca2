"""Whether the cluster can give the consistency that an appender asks for."""

from loom.decider import Code, Rejected
from loom.v1 import data_pb2 as pb

__all__ = ["check"]

REPLICAS_MIN = 3
"""With fewer, a majority is all of them or only one."""


def check(level: pb.Consistency, copies: pb.LogCopies) -> None:
    """Raises Rejected, naming what was found, where the level cannot be given."""
    if level not in (pb.CONSISTENCY_QUORUM, pb.CONSISTENCY_ALL):
        return
    name = pb.Consistency.Name(level).removeprefix("CONSISTENCY_")
    found = (
        f"the log has {copies.replicas} replicas, {copies.in_sync} of them in sync, "
        f"min.insync.replicas is {copies.min_insync}"
    )
    majority = copies.replicas // 2 + 1
    if copies.replicas < REPLICAS_MIN or copies.min_insync < majority:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"consistency {name} wants {REPLICAS_MIN} replicas and min.insync.replicas of more "
            f"than half of them, but {found}: run three brokers, or ask for ONE",
            "consistency",
        )
    if level == pb.CONSISTENCY_ALL and copies.in_sync < copies.replicas:
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"consistency ALL wants every replica in sync, but {found}: wait until the missing "
            "broker is back, or ask for QUORUM",
            "consistency",
        )
