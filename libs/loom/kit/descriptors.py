"""Typed access to descriptors: the published type stubs lag behind what protobuf does.

The stubs name two descriptor classes where there is one, and know extensions as fields only.
"""

from typing import Any, cast

from buf.validate import validate_pb2
from google.api import annotations_pb2
from google.protobuf.descriptor import (
    Descriptor,
    FieldDescriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message

from loom.v1 import common_pb2

__all__ = ["contract_of", "described", "http_rule", "inside", "is_map", "rpc_of", "rules_of"]

HTTP: Any = annotations_pb2.http
RULES: Any = validate_pb2.field
CONTRACT: Any = common_pb2.contract
RPC: Any = common_pb2.rpc


def described(message: Message | type[Message]) -> Descriptor:
    """The descriptor of a message or of its class."""
    return cast(Descriptor, message.DESCRIPTOR)


def inside(field: FieldDescriptor) -> Descriptor:
    """The type of the messages that a field holds."""
    assert field.message_type is not None, field.full_name
    return field.message_type


def is_map(field: FieldDescriptor) -> bool:
    """True for a map field."""
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def rules_of(field: FieldDescriptor) -> Any:
    """The field's protovalidate rules; empty ones where it has none."""
    return field.GetOptions().Extensions[RULES]


def http_rule(method: MethodDescriptor) -> Any | None:
    """The RPC's HTTP rule, or None."""
    options = method.GetOptions()
    return options.Extensions[HTTP] if options.HasExtension(HTTP) else None


def contract_of(service: ServiceDescriptor) -> Any:
    """The service's declaration."""
    return service.GetOptions().Extensions[CONTRACT]


def rpc_of(method: MethodDescriptor) -> Any:
    """What the doors must know of an RPC."""
    return method.GetOptions().Extensions[RPC]
