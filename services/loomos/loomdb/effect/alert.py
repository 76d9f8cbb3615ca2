"""What an alert causes: what failed is tried again, and who reads `loomos.alerts` hears of it.

Both may happen twice for one event: the commands' ids and the copy's `ce_id` are the event's.
"""

import asyncio
import json
from typing import Any
from weakref import WeakKeyDictionary

from google.protobuf.json_format import MessageToDict

from loom.decider import Command, Recorded
from loom.kit.errors import Failure
from loom.log.envelope import cloudevent
from loom.log.feeds import FeedRecord, FeedWriter
from loom.log.reader import LogAway
from loom.v1 import data_pb2, deployment_pb2
from loom.v1 import loomdb_pb2 as pb
from loom.v1.common_pb2 import Attributes

__all__ = ["effect", "stop"]

TOPIC = "loomos.alerts"
RETRY_TYPE = "job.retry.requested"
WRITERS: WeakKeyDictionary[Any, FeedWriter] = WeakKeyDictionary()
STARTING: WeakKeyDictionary[Any, asyncio.Lock] = WeakKeyDictionary()


async def effect(record: Recorded, shell: Any) -> list[Command]:
    """The copy of an alert's event, and the command that tries again what failed."""
    await copy(record, shell)
    match record.event:
        case pb.AlertRaised() as event if event.HasField("retry"):
            return [Command(retry_of(event, record))]
        case _:
            return []


def retry_of(
    event: pb.AlertRaised, record: Recorded
) -> deployment_pb2.DeployModelRequest | data_pb2.AppendEventRequest:
    """The command: ours are deployed again, outside systems are asked to by an event."""
    retry = event.retry
    if retry.model_id:
        return deployment_pb2.DeployModelRequest(
            model_id=retry.model_id,
            version=retry.version,
            environment=retry.environment,  # type: ignore[arg-type]
        )
    content = {
        "job_id": retry.thing_id,
        "failed_event_id": retry.failed_event_id,
        "alert_id": event.alert_id,
        "attempt": retry.attempt,
        "reason": event.summary[:1024],
    }
    return data_pb2.AppendEventRequest(
        organisation_id=event.organisation_id,
        event=data_pb2.NewEvent(
            type=RETRY_TYPE,
            event_id=f"retry-{event.alert_id}",
            stream=retry.thing_id if is_stream(retry.thing_id) else "",
            payload_json=json.dumps(content),
            correlation_id=record.correlation_id,
            causation_id=record.id,
        ),
    )


def is_stream(name: str) -> bool:
    """Whether a thing's name can name a stream."""
    return len(name) <= 128 and all(c.isascii() and (c.isalnum() or c in "._:@+-") for c in name)


async def copy(record: Recorded, shell: Any) -> None:
    """The event, for whoever reads `loomos.alerts`; raises Failure while Kafka is away."""
    starting = STARTING.setdefault(shell, asyncio.Lock())
    try:
        async with starting:
            writer = WRITERS.get(shell)
            if writer is None:
                writer = FeedWriter(shell.settings)
                await writer.start()
                WRITERS[shell] = writer
        await writer.write(TOPIC, [cloudevent_of(record)])
    except LogAway as error:
        raise Failure("UNAVAILABLE", str(error)) from error


def cloudevent_of(record: Recorded) -> FeedRecord:
    """An alert's event as a CloudEvent with its content as JSON."""
    content = MessageToDict(record.event, preserving_proto_field_name=True)
    said = Attributes(
        id=record.id,
        type=record.type,
        schema_version=1,
        subject=record.stream,
        sequence=record.version,
        time_us=record.at_us,
        source="/loomos/loomdb",
        authid=record.actor,
        commandid=record.command_id,
        correlationid=record.correlation_id,
        causationid=record.causation_id,
        extensions={"partitionkey": record.stream, "organisation": record.shard},
    )
    value = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return FeedRecord(record.stream.encode(), value.encode(), cloudevent(said))


async def stop(shell: Any) -> None:
    """Disconnect."""
    writer = WRITERS.pop(shell, None)
    if writer is not None:
        await writer.stop()
