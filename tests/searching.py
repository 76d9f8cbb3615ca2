"""Users' events, some of them hard to get right, in an audit index of their own."""

import json
import types
from importlib.resources import files
from typing import Any

from loom.decider import Position, Recorded
from loom.kit.caller import Caller, Scope
from loom.v1 import data_pb2
from loomos.loomdb.project.events import project

__all__ = ["DAY", "JAN", "NASTY", "SCHEMA", "appended", "caller", "put"]

SCHEMA = files("loomos.loomdb").joinpath("schema.sql").read_text()
DAY = 86_400_000_000
JAN = 1_704_067_200_000_000
NASTY = (
    {"text": "a\0b", "big": 10**400, "tiny": 5e-324, "huge": 1e308},
    {"text": 'it\'s "quoted" $.x ? (@ == 1) %s', "n": "7", "a-b": {"c": [1, [2], {"d": 3}]}},
    {"text": "\U0001f600 ünï", "n": 7, "flag": True, "none": None},
    {"n": 7.5, "flag": False, "list": ["x", 7, True], "deep": [{"n": 1}, {"n": 9}]},
    {"n": "07", "list": [], "ids": {"job-1": 1}, "big": 9007199254740993},
    {"n": -0.0, "text": "", "list": "x marks", "big": 2**63},
)


def caller(organisation: str = "acme", **more: Any) -> Caller:
    """Who may read one organisation's trail, or what `scope` says."""
    scope = more.get("scope", Scope(False, [organisation], []))
    judge: Any = types.SimpleNamespace(scope=lambda principal, action: scope)
    return Caller("user:somebody", organisation, "user", judge)


def appended(offset: int, payload: object, organisation: str = "acme", **more: Any) -> Recorded:
    """A user's event."""
    event = data_pb2.EventAppended(
        stream_id=f"{organisation}/run",
        organisation_id=organisation,
        event_id=f"e{offset}",
        event_type=more.get("type", "model.training.start"),
        payload=json.dumps(payload).encode(),
        append_id=f"a{offset}",
        correlation_id=f"story-{offset % 3}",
    )
    event.context.user_id = f"user_{offset % 2}"
    event.context.source_ip = "10.0.0.1" if offset % 2 else "192.168.0.1"
    if offset % 2:
        event.context.cost_center = "research"
        event.context.compliance_level = "SOC2_TYPE2"
        event.security.data_classification = "phi"
    event.metadata.tags.extend(["healthcare", "nlp"] if offset % 3 else ["vision"])
    event.metadata.priority = ("", "low", "high", "critical")[offset % 4]
    return Recorded(
        event=event,
        type="event.appended",
        id=f"{organisation}-e{offset}.1",
        stream=f"{organisation}/run-{offset % 2}",
        version=offset + 1,
        shard=organisation,
        position=Position("loomos.data", 0, offset),
        at_us=more.get("at_us", JAN + offset * DAY),
        actor=f"user:{'ab'[offset % 2]}",
        command_id=f"c{offset}",
        correlation_id=f"story-{offset % 3}",
        causation_id="",
    )


async def put(db: Any, *records: Recorded) -> None:
    """Project records."""
    for record in records:
        for statement in project(record):
            await db.execute(statement.sql, statement.parameters)
