"""Answers with proofs of events, and with records as they are stored, for exports."""

import asyncio
from collections import defaultdict
from typing import Any

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.log.deletions import TOPIC
from loom.log.export import read_range
from loom.log.reader import LogAway
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb import query
from loomos.loomdb.decide import PLATFORM
from loomos.loomdb.proof import Trees

__all__ = ["entries_of", "event_proof", "event_proofs", "records_of"]

PAGE_BYTES_MAX = 1_500_000
"""A page is at most this and one record more: under what one message may have."""
DELETIONS_MAX = 4
"""So many events that allowed deletions go with a page, each up to a record's greatest size."""


async def event_proof(
    request: pb.GetEventProofRequest, caller: Caller, shell: Any, trees: Trees
) -> pb.EventProof:
    """The proof of one event."""
    found = await bundle(
        request.organisation_id, [request.event_id], "GetEventProof", caller, shell
    )
    places = found.get(request.event_id)
    if places is None:
        raise Rejected(Code.NOT_FOUND, f"no event {request.event_id!r}", "event_id")
    topic, partition, offset = places
    proof = (await asyncio.to_thread(trees.proved, topic, partition, [offset]))[0]
    proof.event_id = request.event_id
    return proof


async def event_proofs(
    request: pb.ProveEventsRequest, caller: Caller, shell: Any, trees: Trees
) -> pb.EventProofBundle:
    """The proofs of many events; what is unknown or not signed yet is named."""
    ids = list(request.event_ids)
    found = await bundle(request.organisation_id, ids, "ProveEvents", caller, shell)
    by_tree: dict[tuple[str, int], list[str]] = defaultdict(list)
    for event_id, (topic, partition, _) in found.items():
        by_tree[topic, partition].append(event_id)
    proofs: dict[str, pb.EventProof] = {}
    for (topic, partition), group in by_tree.items():
        place = await asyncio.to_thread(trees.place, topic, partition)
        signed = [one for one in group if place and found[one][2] <= place.last_offset]
        offsets = [found[one][2] for one in signed]
        made = await asyncio.to_thread(trees.proved, topic, partition, offsets) if offsets else []
        for event_id, proof in zip(signed, made, strict=True):
            proof.event_id = event_id
            proofs[event_id] = proof
    return pb.EventProofBundle(
        proofs=[proofs[one] for one in ids if one in proofs],
        unproved_event_ids=[one for one in ids if one not in proofs],
    )


async def bundle(
    organisation: str, ids: list[str], action: str, caller: Caller, shell: Any
) -> dict[str, tuple[str, int, int]]:
    """Where events stand that the caller may see."""
    async with shell.db() as db:
        return await query.places_of(organisation, ids, action, caller, db)


async def entries_of(request: pb.ReadTreeEntriesRequest, trees: Trees) -> pb.TreeFile:
    """A bundle of leaves."""
    if not request.path.startswith("tile/entries/"):
        told = f"path is {request.path[:64]!r}: want tile/entries/…"
        raise Rejected(Code.INVALID_ARGUMENT, told, "path")
    return await asyncio.to_thread(trees.file, request.tree_id, request.path)


async def records_of(
    request: pb.ExportRecordsRequest, caller: Caller, shell: Any, trees: Trees
) -> pb.RecordPage:
    """A page of stored records, the caller's own or all of them."""
    place = await asyncio.to_thread(trees.place, request.topic, request.partition)
    if place is None:
        told = f"{request.topic}/{request.partition} has no signed checkpoint"
        raise Rejected(Code.NOT_FOUND, told, "topic")
    end = min(request.end_offset, place.last_offset + 1)
    if request.first_offset >= end:
        return pb.RecordPage(next_offset=request.end_offset, complete=True)
    try:
        frames, at = await read_range(
            shell.settings, request.topic, request.partition, request.first_offset, end,
            PAGE_BYTES_MAX,
        )  # fmt: skip
    except LogAway as error:
        raise Failure("UNAVAILABLE", f"{error}: retry") from error
    scope = caller.scope("ExportRecords")
    everything = request.organisation_id == PLATFORM and scope.all
    if not everything:
        async with shell.db() as db:
            own = await query.offsets_of(
                request.organisation_id, request.topic, request.partition,
                (request.first_offset, at), caller, db,
            )  # fmt: skip
        frames = [frame for frame in frames if frame.offset in own]
    gone = [frame.offset for frame in frames if not frame.stored]
    places, stop = await deletions_of(request, gone, shell) if gone else ([], None)
    if stop is not None:
        frames, at = [frame for frame in frames if frame.offset < stop], stop
    return pb.RecordPage(
        records=b"".join(frame.pack() for frame in frames),
        next_offset=at,
        complete=everything,
        deletions=[await deletion_proof(*place, shell, trees) for place in places],
    )


async def deletions_of(
    request: pb.ExportRecordsRequest, offsets: list[int], shell: Any
) -> tuple[list[tuple[int, int]], int | None]:
    """Where the events stand that allowed these deletions, and the offset that has no more room."""
    async with shell.db() as db:
        allowed = await query.allowing(request.topic, request.partition, offsets, db)
    places: list[tuple[int, int]] = []
    for one in allowed:
        if (one.partition, one.at) not in places:
            if len(places) == DELETIONS_MAX:
                return places, one.offset
            places.append((one.partition, one.at))
    return places, None


async def deletion_proof(partition: int, offset: int, shell: Any, trees: Trees) -> pb.DeletionProof:
    """An event that allowed a deletion, as it is stored, with its proof."""
    try:
        frames, _ = await read_range(shell.settings, TOPIC, partition, offset, offset + 1, 1)
        proofs = await asyncio.to_thread(trees.proved, TOPIC, partition, [offset])
    except LogAway as error:
        raise Failure("UNAVAILABLE", f"{error}: retry") from error
    except Rejected as error:
        raise Failure("UNAVAILABLE", f"{error.message}: retry") from error
    return pb.DeletionProof(record=frames[0].pack(), tlog_proof=proofs[0].tlog_proof)
