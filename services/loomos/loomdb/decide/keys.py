"""Decides when keys are renewed, and when a subject's keys die.

1. A subject under a legal hold is not erased; a hold that names no subject may cover anybody.
2. What is erased is known by its keys: a subject that has none is answered as unknown.
3. An order and its completion are two events; what lies between is the keystore's work.
"""

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.state import PLATFORM, Trail

__all__ = [
    "blocking",
    "erase_subject",
    "report_destroyed",
    "report_renewed",
    "rewrap_keys",
    "rotate_key",
]


OWN = ("digests:", "index:")


def erase_subject(command: pb.EraseSubjectRequest, state: Trail, context: Context) -> list[Message]:
    """That a subject's keys are to be destroyed."""
    if command.subject.startswith(OWN):
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"subject is {command.subject!r}: that key is the platform's own, not a person's",
            "subject",
        )
    if not command.key_ids:
        told = f"nothing is sealed for subject {command.subject!r}"
        raise Rejected(Code.NOT_FOUND, told, "subject")
    if holds := blocking(state, command.subject):
        raise Rejected(
            Code.FAILED_PRECONDITION,
            f"subject {command.subject!r} is under legal hold {', '.join(holds[:5])}: release it "
            "first, or give it a narrower scope",
            "subject",
        )
    for erasure_id, subject in sorted(state.keys.erasing.items()):
        if subject == command.subject:
            raise Rejected(
                Code.FAILED_PRECONDITION,
                f"erasure {erasure_id} of subject {subject!r} is under way: ask for it",
                "subject",
            )
    return [
        pb.SubjectErased(
            erasure_id=context.new_id("erasure"),
            organisation_id=state.shard,
            subject=command.subject,
            ground=command.ground,
            reason=command.reason,
            key_ids=command.key_ids,
            ordered_by=context.actor,
        )
    ]


def blocking(state: Trail, subject: str) -> list[str]:
    """The holds under which the subject, or anybody, stands."""
    return sorted(
        hold_id for hold_id, held in state.retention.holds.items() if held.subject in ("", subject)
    )


def report_destroyed(command: pb.ReportKeysDestroyedRequest, state: Trail) -> list[Message]:
    """That an erasure's keys are gone; told again, it changes nothing."""
    subject = state.keys.erasing.get(command.erasure_id)
    if subject is None:
        return []
    return [
        pb.KeyDestroyed(
            erasure_id=command.erasure_id,
            organisation_id=state.shard,
            subject=subject,
            keys=command.keys,
        )
    ]


def rotate_key(command: pb.RotateKeyRequest, state: Trail) -> list[Message]:
    """That a subject's newest key is to have a successor."""
    if not command.key_id:
        raise Rejected(Code.NOT_FOUND, f"subject {command.subject!r} has no key", "subject")
    if state.keys.rotating.get(command.subject) == command.key_id:
        return []
    return [
        pb.RotationOrdered(
            keys_id=stream_of(state),
            organisation_id=state.shard,
            subject=command.subject,
            key_id=command.key_id,
            reason=command.reason,
        )
    ]


def rewrap_keys(command: pb.RewrapKeysRequest, state: Trail) -> list[Message]:
    """That all keys are to be wrapped anew; one order at a time."""
    if state.shard != PLATFORM:
        raise Rejected(
            Code.INVALID_ARGUMENT,
            f"organisation_id is {state.shard!r}: one key-encryption key stands over all "
            f"organisations, so only {PLATFORM!r} has it changed",
            "organisation_id",
        )
    if state.keys.rewrapping:
        return []
    return [
        pb.RewrapOrdered(
            keys_id=stream_of(state),
            organisation_id=state.shard,
            renew=command.renew,
            reason=command.reason,
        )
    ]


def report_renewed(command: pb.ReportKeysRenewedRequest, state: Trail) -> list[Message]:
    """That what was ordered is done; told again, it changes nothing."""
    if not command.subject:
        if not state.keys.rewrapping:
            return []
        return [
            pb.KeysRewrapped(
                keys_id=stream_of(state),
                organisation_id=state.shard,
                kek_id=command.key_id,
                rewrapped=command.rewrapped,
            )
        ]
    if command.subject not in state.keys.rotating:
        return []
    return [
        pb.KeyRotated(
            keys_id=stream_of(state),
            organisation_id=state.shard,
            subject=command.subject,
            key_id=command.key_id,
        )
    ]


def stream_of(state: Trail) -> str:
    """The stream of an organisation's keys."""
    return f"keys-{state.shard}"
