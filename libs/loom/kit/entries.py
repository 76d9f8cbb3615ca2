"""One command on its way to its answer, and the words in which it is refused or left in doubt."""

import asyncio
from dataclasses import dataclass

from google.protobuf.message import Message

from loom.decider import Code, Position, Rejected, Resource, shard_of
from loom.kit.answers import Answer
from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.log.envelope import Draft
from loom.v1 import common_pb2

__all__ = [
    "Entry",
    "finish",
    "stale_view",
    "subject_of",
    "tenant_of",
    "unknown_outcome",
    "unknown_subject",
    "used_otherwise",
]


@dataclass(slots=True, eq=False)
class Entry:
    """One command on its way to its answer."""

    request: Message
    caller: Caller
    shard: str
    action: str
    command_id: str
    digest: bytes
    issued_at_us: int
    correlation_id: str
    causation_id: str
    traceparent: str
    expected: dict[str, int]
    """Versions of streams that the caller saw."""
    answer: asyncio.Future[Answer]
    refusal: Rejected | None = None
    """Set where the door refused it already, so that only the record of it is wanted."""

    def settle(self, answer: Answer) -> None:
        """Give the caller the command's answer, or tell that its id was used with other content."""
        if self.answer.done():
            return
        if answer.digest == self.digest:
            self.answer.set_result(answer)
        else:
            self.answer.set_exception(used_otherwise(self))

    def lose(self, why: str) -> None:
        """Tell the caller that the outcome is unknown."""
        if not self.answer.done():
            self.answer.set_exception(unknown_outcome(why))


def finish(answer: Answer, drafts: list[Draft], position: Position) -> None:
    """Complete an answer from the confirmed records of its command."""
    answer.position = position
    first = drafts[0]
    if isinstance(first.event, common_pb2.CommandRefused):
        answer.code, answer.message = first.event.code, first.event.message
        answer.field = first.event.field
    elif isinstance(first.event, common_pb2.CommandAcknowledged):
        answer.id, answer.version = first.event.subject or first.stream, first.version
    else:
        answer.id = first.stream
        answer.version = max(d.version for d in drafts if d.stream == first.stream)


def used_otherwise(entry: Entry) -> Failure:
    """The same command id with other content."""
    return Failure(
        "ALREADY_EXISTS",
        f"command id {entry.command_id!r} was used with other content: take a new id",
        "command-id",
    )


def unknown_outcome(why: str) -> Failure:
    """What a caller hears when the log may or may not have his command."""
    return Failure(
        "UNAVAILABLE", f"{why}: outcome unknown, retry with the same command id", reason="UNKNOWN"
    )


def stale_view() -> Failure:
    """What a caller hears while this process does not know what security has decided of late."""
    return Failure(
        "UNAVAILABLE",
        "what is known of rights here is behind security's log: retry with the same command id",
        reason="STALE",
    )


def unknown_subject(request: Message, resource: Resource | None = None) -> Rejected:
    """The one answer for ids that do not exist and ids that the caller may not know of."""
    names = [field.name for field in request.DESCRIPTOR.fields]
    if resource is not None:
        # What names the resource outright is the id that is unknown, e.g. a new job's project.
        for name in names:
            if getattr(request, name) == resource.id:
                return Rejected(Code.NOT_FOUND, f"no {said(name)} {resource.id!r}", name)
    subject = subject_of(request)
    if not subject and resource is not None:
        return Rejected(Code.NOT_FOUND, f"no {resource.kind} {resource.id!r}")
    return Rejected(Code.NOT_FOUND, f"no {said(names[0])} {subject!r}", names[0])


def said(field: str) -> str:
    """What a field holds the id of, in words: `project_id` → `project`."""
    return field.removesuffix("_id").replace("_", " ")


def tenant_of(resource: Resource) -> str:
    """The organisation that a resource belongs to; a project's id begins with it."""
    match resource.kind:
        case "organisation":
            return resource.id
        case "project":
            return resource.id.partition(".")[0]
        case "user":
            return shard_of(resource.id)
        case _:
            return "platform"


def subject_of(request: Message) -> str:
    """The stream that a command names in its first field, or ""."""
    fields = request.DESCRIPTOR.fields
    first = getattr(request, fields[0].name) if fields else ""
    return first[:200] if isinstance(first, str) else ""
