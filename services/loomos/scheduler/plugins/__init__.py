"""Policies of a round: pure functions of what they are given, one file each.

A policy reads no clock, draws no chance and depends on no order of a dict; its result is a tuple
that compares, ending in an id, so that there are no ties.
"""

from dataclasses import dataclass, field
from typing import Protocol

from loomos.scheduler.state import Amounts, Job, Need, Node

__all__ = ["Ordering", "Placing", "Preempting", "Room", "open_room"]

Kind = tuple[int, str]
"""(memory, model) of a GPU: sorted, the smallest that does comes first."""


@dataclass(slots=True)
class Room:
    """What a node has left during one round; changed by the round as it decides.

    `free` is left now. `future` also has what leaves soon, less what the round keeps for those who
    wait for it: a job is placed only where both have room for it.
    """

    node: Node
    free: list[int]
    future: list[int]
    free_gpus: dict[Kind, int]
    future_gpus: dict[Kind, int]
    leaving: set[str] = field(default_factory=set)
    """Jobs whose places count in `future` already."""

    def fits_now(self, need: Need) -> bool:
        """True if a job may be placed here at once."""
        return (
            covers(self.free, need.amounts)
            and covers(self.future, need.amounts)
            and matching(self.free_gpus, need) >= need.gpus
            and matching(self.future_gpus, need) >= need.gpus
        )

    def fits_soon(self, need: Need) -> bool:
        """True if a job fits once everybody who was told to leave has left."""
        return covers(self.future, need.amounts) and (matching(self.future_gpus, need) >= need.gpus)

    def take(self, need: Need) -> None:
        """A job is placed here."""
        take(self.free, self.free_gpus, need)
        self.keep(need)

    def keep(self, need: Need) -> None:
        """A job will be placed here when those who leave have left."""
        take(self.future, self.future_gpus, need)

    def vacate(self, job_id: str) -> None:
        """A job was told to leave: what it has counts as free soon."""
        self.leaving.add(job_id)
        claim = self.node.claims[job_id]
        for index, amount in enumerate(claim.amounts):
            self.future[index] += amount
        for kind in claim_kinds(self.node, claim.gpu_uuids):
            self.future_gpus[kind] = self.future_gpus.get(kind, 0) + 1


class Ordering(Protocol):
    """Who is looked at first: the smallest rank."""

    NAME: str

    def rank(self, job: Job) -> tuple[int | str, ...]:
        """A job's place in the order."""
        ...


class Placing(Protocol):
    """Where a job goes: the smallest score."""

    NAME: str

    def score(self, job: Job, room: Room) -> tuple[int | str, ...]:
        """How well a node that has room suits a job."""
        ...


class Preempting(Protocol):
    """Who may be told to make room."""

    NAME: str

    def victims(self, job: Job, room: Room, jobs: dict[str, Job], at_us: int) -> list[Job] | None:
        """The jobs to tell on this node, in order; None if that would not do."""
        ...


def open_room(node: Node) -> Room:
    """What a node has left when a round begins."""
    free = list(node.capacity)
    gpus: dict[Kind, int] = {}
    held = {uuid for claim in node.claims.values() for uuid in claim.gpu_uuids}
    for uuid, (model, memory_bytes) in node.gpus.items():
        if uuid not in held and uuid not in node.cordoned_gpus:
            gpus[(memory_bytes, model)] = gpus.get((memory_bytes, model), 0) + 1
    for claim in node.claims.values():
        for index, amount in enumerate(claim.amounts):
            free[index] -= amount
    unnamed = sum(claim.gpus for claim in node.claims.values() if not claim.gpu_uuids)
    draw(gpus, sorted(gpus), unnamed)
    room = Room(node, free, list(free), gpus, dict(gpus))
    for job_id, claim in node.claims.items():
        if claim.leaving:
            room.vacate(job_id)
    return room


def covers(left: list[int], amounts: Amounts) -> bool:
    """True if each amount is left."""
    return all(have >= want for have, want in zip(left, amounts, strict=True))


def kinds(gpus: dict[Kind, int], need: Need) -> list[Kind]:
    """The kinds of GPU that a job takes, smallest first."""
    return [
        (memory_bytes, model)
        for memory_bytes, model in sorted(gpus)
        if memory_bytes >= need.gpu_memory_bytes_min and need.gpu_model in ("", model)
    ]


def matching(gpus: dict[Kind, int], need: Need) -> int:
    """How many GPUs that a job takes are there."""
    return sum(gpus[kind] for kind in kinds(gpus, need)) if need.gpus else 0


def take(left: list[int], gpus: dict[Kind, int], need: Need) -> None:
    """Take what a job needs."""
    for index, amount in enumerate(need.amounts):
        left[index] -= amount
    draw(gpus, kinds(gpus, need), need.gpus)


def draw(gpus: dict[Kind, int], order: list[Kind], wanted: int) -> None:
    """Take GPUs, kind by kind."""
    for kind in order:
        taken = min(gpus[kind], wanted)
        gpus[kind] -= taken
        wanted -= taken


def claim_kinds(node: Node, gpu_uuids: tuple[str, ...]) -> list[Kind]:
    """The kinds of the healthy GPUs among these."""
    return [
        (node.gpus[uuid][1], node.gpus[uuid][0])
        for uuid in gpu_uuids
        if uuid in node.gpus and uuid not in node.cordoned_gpus
    ]
