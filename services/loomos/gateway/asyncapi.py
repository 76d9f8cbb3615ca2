"""The AsyncAPI 3.0 document: which events there are, on which channels, and what each carries.

1. Nothing is written by hand: platform events come from the contracts and their comments, users'
   built-in types from the schemas that the service `data` ships.
2. An organisation's own types are not in it: the document is open to everybody, they are not.
"""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from google.protobuf.descriptor import FileDescriptor

from loom.catalogue import events, name_of, version_of
from loom.kit.descriptors import described
from loomos.gateway.openapi import Schemas

__all__ = ["document"]

CATALOGUE = ("data", "catalogue")
STREAM = "/api/v1/organisations/{organisation_id}/event-stream"
APPEND = "/api/v1/organisations/{organisation_id}/events"
ORGANISATION = {"organisation_id": {"description": "The organisation whose events they are."}}
USERS = "event.appended"
ATTRIBUTES: dict[str, Any] = {
    "type": "object",
    "description": "CloudEvents attributes of every event.",
    "required": ["specversion", "id", "source", "type"],
    "properties": {
        "specversion": {"const": "1.0"},
        "id": {
            "type": "string",
            "description": "Unique in the log; what comes twice has it twice.",
        },
        "source": {"type": "string", "description": "`/loomos/<service>`"},
        "type": {"type": "string"},
        "subject": {"type": "string", "description": "The stream."},
        "time": {"type": "string", "format": "date-time"},
        "correlationid": {"type": "string", "description": "The whole story."},
        "causationid": {"type": "string", "description": "The event that caused this one."},
    },
}


def document(comments: Mapping[str, str], host: str) -> dict[str, Any]:
    """The whole document."""
    book = Schemas(comments)
    platform = platform_messages(book, comments)
    users = user_messages()
    everything = {**platform, **users}
    channels: dict[str, Any] = {
        "eventStream": {
            "address": STREAM,
            "title": "Live events",
            "description": "All events that the caller may see, as they come: Server-Sent Events "
            "or lines of JSON.",
            "servers": [{"$ref": "#/servers/gateway"}],
            "parameters": ORGANISATION,
            "messages": referred(everything),
        },
        "append": {
            "address": APPEND,
            "title": "Append an event",
            "description": "Events of users and outside systems enter the log here, held against "
            "the schema of their type.",
            "servers": [{"$ref": "#/servers/gateway"}],
            "parameters": ORGANISATION,
            "messages": referred(users),
        },
        "feed": {
            "address": "loomos.feed.{organisation_id}",
            "title": "An organisation's feed",
            "description": "A Kafka topic for any client: CloudEvents in binary mode, at least "
            "once. Its brokers are the installation's own matter.",
            "parameters": ORGANISATION,
            "messages": referred(everything),
        },
    }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "LoomOS events",
            "version": "v1",
            "description": "Every decision of the platform is an event in one immutable log; "
            "what users and outside systems append stands beside them.",
        },
        "defaultContentType": "application/json",
        "servers": {"gateway": server(host)},
        "channels": channels,
        "operations": {
            "sendLiveEvents": operation("send", "eventStream", "Told to a subscriber."),
            "receiveEvent": operation("receive", "append", "Appended by a user or a system."),
            "sendFeed": operation("send", "feed", "Copied to the organisation's feed."),
        },
        "components": {
            "messages": everything,
            "messageTraits": {"cloudEvent": {"headers": ATTRIBUTES}},
            "schemas": dict(sorted(book.schemas.items())),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "apiKey": {"type": "httpApiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def server(host: str) -> dict[str, Any]:
    """The gateway, as the caller reaches it."""
    return {
        "host": host,
        "protocol": "https",
        "security": [
            {"$ref": "#/components/securitySchemes/bearer"},
            {"$ref": "#/components/securitySchemes/apiKey"},
        ],
    }


def operation(action: str, channel: str, told: str) -> dict[str, Any]:
    """One operation over all messages of a channel."""
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}, "summary": told}


def referred(messages: Mapping[str, Any]) -> dict[str, Any]:
    """References to messages, for a channel."""
    return {name: {"$ref": f"#/components/messages/{name}"} for name in messages}


def platform_messages(book: Schemas, comments: Mapping[str, str]) -> dict[str, Any]:
    """The platform's own events, by type; a user's event shows under its own type instead."""
    found: dict[str, Any] = {}
    for event_type, cls in sorted(events().items()):
        if event_type == USERS:
            continue
        descriptor = described(cls)
        told = comments.get(descriptor.full_name, "")
        found[event_type] = {
            "name": event_type,
            "title": f"{event_type} (version {version_of(descriptor)})",
            "summary": told,
            "tags": [{"name": emitter(descriptor.file)}],
            "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
            "payload": book.reference(descriptor),
        }
    return found


def emitter(contract: FileDescriptor) -> str:
    """Who emits the events of a contract."""
    return name_of(contract) or "every-service"


@cache
def user_messages() -> dict[str, Any]:
    """The built-in types of users' events, each version by itself."""
    schemas: dict[str, dict[str, Any]] = {}
    folder = resources.files("loomos").joinpath(*CATALOGUE)
    for file in sorted(folder.iterdir(), key=lambda one: one.name):
        if file.name.endswith(".json"):
            name, _, version = file.name.removesuffix(".json").partition("@")
            schemas.setdefault(name, {})[version] = json.loads(file.read_text())
    return {
        f"data-{name}-{version}": {
            "name": name,
            "title": f"{name} (schema {version})",
            "summary": schema.get("description", ""),
            "tags": [{"name": "data"}],
            "traits": [{"$ref": "#/components/messageTraits/cloudEvent"}],
            "payload": {
                "schemaFormat": "application/schema+json;version=draft-07",
                "schema": {key: one for key, one in schema.items() if key != "$schema"},
            },
        }
        for name, versions in sorted(schemas.items())
        for version, schema in versions.items()
    }
