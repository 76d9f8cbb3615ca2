"""The rows of erasures, and which events hold something sealed for whom."""

import json

from loom.decider import Recorded, Statement
from loom.personal import organisation_of, sealed_for, whole_organisation
from loom.v1 import loomdb_pb2 as pb

__all__ = ["project"]

SEALED = "INSERT INTO sealed_events VALUES (%s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING"
ORDERED = """
INSERT INTO erasures (erasure_id, organisation_id, subject, ground, reason, ordered_by,
  ordered_at_us, event_id, place)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT DO NOTHING
"""
DONE = """
UPDATE erasures SET tombstones = %s, completed_at_us = %s, completed_event_id = %s,
  completed_place = %s WHERE erasure_id = %s
"""


def project(record: Recorded) -> list[Statement]:
    """What one event changes."""
    at = record.position
    organisation = organisation_of(record.shard)
    made = [
        Statement(
            SEALED,
            (
                at.topic,
                at.partition,
                at.offset,
                organisation,
                subject or whole_organisation(organisation),
                record.at_us,
            ),
        )
        for subject in sealed_for(record.event)
    ]
    match record.event:
        case pb.SubjectErased() as event:
            made.append(
                Statement(
                    ORDERED,
                    (
                        event.erasure_id,
                        event.organisation_id,
                        event.subject,
                        event.ground,
                        event.reason,
                        event.ordered_by,
                        record.at_us,
                        record.id,
                        place_of(record),
                    ),
                )
            )
        case pb.KeyDestroyed() as event:
            tombstones = [
                {"key_id": key.key_id, "destroyed_at_us": key.destroyed_at_us, "cause": key.cause}
                for key in event.keys
            ]
            row = (json.dumps(tombstones), record.at_us, record.id, place_of(record))
            made.append(Statement(DONE, (*row, event.erasure_id)))
        case _:
            pass
    return made


def place_of(record: Recorded) -> str:
    """Where a record stands, as the message that an answer holds."""
    at = record.position
    place = {
        "topic": at.topic,
        "partition": at.partition,
        "offset": at.offset,
        "incarnation": at.incarnation,
    }
    return json.dumps(place)
