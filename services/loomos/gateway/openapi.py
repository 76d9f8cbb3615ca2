"""The OpenAPI 3.1 document of the REST doors, read from the contracts and their comments.

1. Nothing is written by hand: paths, fields, bounds and words come from the descriptors.
2. What the document says of a field (pattern, bounds) is what protovalidate enforces.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from loom.kit.call import MOMENT
from loom.kit.descriptors import described, inside, is_map, rules_of
from loomos.gateway.transcode import VARIABLE, Binding

__all__ = ["comments_in", "document"]

INTEGERS = {
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_SINT32: "int32",
    FieldDescriptor.TYPE_SFIXED32: "int32",
    FieldDescriptor.TYPE_UINT32: "uint32",
    FieldDescriptor.TYPE_FIXED32: "uint32",
}
LONGS = {
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_SINT64: "int64",
    FieldDescriptor.TYPE_SFIXED64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_FIXED64: "uint64",
}
WELL_KNOWN: dict[str, dict[str, Any]] = {
    "google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    "google.protobuf.Duration": {"type": "string", "pattern": r"^-?\d+(\.\d+)?s$"},
    "google.protobuf.FieldMask": {"type": "string"},
    "google.protobuf.Struct": {"type": "object"},
    "google.protobuf.Value": {},
    "google.protobuf.Any": {"type": "object"},
    "google.protobuf.Empty": {"type": "object"},
}
AS_OF = {
    "name": "as_of",
    "in": "query",
    "schema": {"type": "string", "pattern": f"^{MOMENT.pattern}$"},
    "description": "The moment as of which to answer: a time such as 2026-11-22T10:00:00Z or "
    "microseconds since 1970, a position `topic:partition:offset`, or an event's id. Rights are "
    "today's. While the tables of that moment are being made the answer is 503 with the reason "
    "TRAVELLING: ask again.",
}
PROBLEM = {
    "type": "object",
    "description": "What went wrong (RFC 9457).",
    "required": ["title", "status", "detail", "code", "correlation_id"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string", "description": "What was wrong, and what to do."},
        "code": {"type": "string", "description": "gRPC status name."},
        "correlation_id": {"type": "string"},
        "reason": {"type": "string"},
        "field": {"type": "string", "description": "The first field to blame."},
        "fields": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string"},
                    "description": {"type": "string"},
                    "rule": {"type": "string"},
                },
            },
        },
    },
}


def comments_in(descriptor_sets: Iterable[bytes]) -> dict[str, str]:
    """The comment of each message, field, enum value and RPC, by full name."""
    found: dict[str, str] = {}
    for data in descriptor_sets:
        for file in descriptor_pb2.FileDescriptorSet.FromString(data).file:
            for location in file.source_code_info.location:
                name = name_at(file, tuple(location.path))
                if name and location.leading_comments:
                    lines = location.leading_comments.splitlines()
                    found[name] = " ".join(line.strip() for line in lines).strip()
    return found


def name_at(file: descriptor_pb2.FileDescriptorProto, path: tuple[int, ...]) -> str:
    """The full name of what stands at a source path, "" where it has none."""
    at: Any = file
    parts = [file.package]
    for number, index in zip(path[::2], path[1::2], strict=False):
        field = at.DESCRIPTOR.fields_by_number.get(number)
        if field is None or field.message_type is None or not field.is_repeated:
            return ""
        at = getattr(at, field.name)[index]
        if not hasattr(at, "name"):
            return ""
        parts.append(at.name)
    return ".".join(parts) if len(path) % 2 == 0 and len(parts) > 1 else ""


def document(found: Iterable[Binding], comments: Mapping[str, str], server: str) -> dict[str, Any]:
    """The whole document."""
    book = Schemas(comments)
    paths: dict[str, dict[str, Any]] = {}
    used: set[str] = set()
    for binding in found:
        path = VARIABLE.sub(lambda name: "{" + name.group(1) + "}", binding.template)
        operation = book.operation(binding, used)
        paths.setdefault(path, {})[binding.verb.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "LoomOS",
            "version": "v1",
            "description": "Every command is an event in one log. Commands answer a receipt; "
            "queries may say `after` what position they must have seen.",
        },
        "servers": [{"url": server}],
        "security": [{"bearer": []}, {"apiKey": []}],
        "paths": dict(sorted(paths.items())),
        "components": {
            "schemas": {"Problem": PROBLEM, **dict(sorted(book.schemas.items()))},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


class Schemas:
    """Schemas of messages, collected while operations name them."""

    def __init__(self, comments: Mapping[str, str]) -> None:
        self.comments = comments
        self.schemas: dict[str, Any] = {}

    def operation(self, binding: Binding, used: set[str]) -> dict[str, Any]:
        """One operation of one path."""
        route = binding.route
        name = route.method
        while name in used:
            name += "_"
        used.add(name)
        operation: dict[str, Any] = {
            "operationId": name,
            "tags": [route.service],
            "summary": self.comments.get(binding.summary_of, ""),
            "parameters": self.parameters(binding),
            "responses": self.responses(binding),
        }
        if route.anonymous:
            operation["security"] = []
        if binding.body:
            content = {"application/json": {"schema": self.body(binding)}}
            operation["requestBody"] = {"required": True, "content": content}
        return operation

    def body(self, binding: Binding) -> dict[str, Any]:
        """The schema of a request's body."""
        descriptor = described(binding.route.request)
        if binding.body != "*":
            return self.field(descriptor.fields_by_name[binding.body])
        if not binding.variables:
            return self.reference(descriptor)
        return self.message(descriptor, without={name.split(".")[0] for name in binding.variables})

    def parameters(self, binding: Binding) -> list[dict[str, Any]]:
        """Path variables, then what a query may carry, then our headers."""
        descriptor = described(binding.route.request)
        found = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": self.field(leaf(descriptor, name)),
                "description": self.comments.get(leaf(descriptor, name).full_name, ""),
            }
            for name in binding.variables
        ]
        if binding.body != "*":
            taken = {binding.body, *binding.variables}
            found += [
                {
                    "name": name,
                    "in": "query",
                    "schema": self.field(field),
                    "description": self.comments.get(field.full_name, ""),
                }
                for name, field in flat(descriptor, "", 3)
                if name not in taken
            ]
        if binding.route.query and not binding.route.streams_out:
            found.append(
                {
                    "name": "X-Loomos-After",
                    "in": "header",
                    "schema": {"type": "string"},
                    "description": "Positions that the answer must have seen, as in "
                    "X-Loomos-Position: `topic:partition:offset:incarnation`, joined by commas.",
                }
            )
            if "as_of" not in descriptor.fields_by_name:
                found.append(AS_OF)
        if not binding.route.query:
            found.append(
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"},
                    "description": "The command's id: the same key gets the same answer.",
                }
            )
        return found

    def responses(self, binding: Binding) -> dict[str, Any]:
        """The answers of an operation."""
        route = binding.route
        status = str(route.http_status or 200)
        schema = self.reference(described(route.response))
        if binding.response_body:
            schema = self.field(described(route.response).fields_by_name[binding.response_body])
        success: dict[str, Any] = {"description": "Done."}
        if route.streams_out:
            kinds = ("application/x-ndjson", "text/event-stream")
            success = {
                "description": "One object a line, as they come.",
                "content": {kind: {"schema": schema} for kind in kinds},
            }
        elif status != "204":
            success = {"description": "Done.", "content": {"application/json": {"schema": schema}}}
        problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
        return {
            status: success,
            "default": {"description": "It did not succeed.", "content": problem},
        }

    def reference(self, descriptor: Descriptor) -> dict[str, Any]:
        """A reference to a message's schema, which is added where it is new."""
        if descriptor.full_name in WELL_KNOWN:
            return dict(WELL_KNOWN[descriptor.full_name])
        name = short(descriptor.full_name)
        if name not in self.schemas:
            self.schemas[name] = {}
            self.schemas[name] = self.message(descriptor)
        return {"$ref": f"#/components/schemas/{name}"}

    def message(self, descriptor: Descriptor, without: Iterable[str] = ()) -> dict[str, Any]:
        """The schema of a message's own fields."""
        skipped = set(without)
        return {
            "type": "object",
            "description": self.comments.get(descriptor.full_name, ""),
            "additionalProperties": False,
            "properties": {
                field.name: {
                    "description": self.comments.get(field.full_name, ""),
                    **self.field(field),
                }
                for field in descriptor.fields
                if field.name not in skipped
            },
        }

    def field(self, field: FieldDescriptor) -> dict[str, Any]:
        """The schema of one field's value."""
        rules = rules_of(field)
        if is_map(field):
            value = inside(field).fields_by_name["value"]
            return {"type": "object", "additionalProperties": self.one(value, rules.map.values)}
        if field.is_repeated:
            schema = {"type": "array", "items": self.one(field, rules.repeated.items)}
            if rules.repeated.HasField("max_items"):
                schema["maxItems"] = rules.repeated.max_items
            return schema
        return self.one(field, rules)

    def one(self, field: FieldDescriptor, rules: Any) -> dict[str, Any]:
        """The schema of a single value."""
        if field.message_type is not None:
            return self.reference(field.message_type)
        if field.enum_type is not None:
            return self.enum(field.enum_type)
        if field.type in INTEGERS or field.type in LONGS:
            return whole(field, rules)
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return {"type": "boolean"}
            case FieldDescriptor.TYPE_BYTES:
                return {"type": "string", "contentEncoding": "base64"}
            case FieldDescriptor.TYPE_STRING:
                return text(field, rules.string)
            case _:
                return {"type": "number"}

    def enum(self, enum: EnumDescriptor) -> dict[str, Any]:
        """The schema of an enum: its names."""
        told = (
            f"{value.name}: {self.comments.get(f'{enum.full_name}.{value.name}', '')}"
            for value in enum.values
        )
        return {
            "type": "string",
            "enum": [value.name for value in enum.values],
            "description": " ".join(told),
        }


def whole(field: FieldDescriptor, rules: Any) -> dict[str, Any]:
    """An integer; 64-bit ones are text in proto3's JSON mapping, and may be sent as numbers."""
    form = INTEGERS.get(field.type) or LONGS[field.type]
    schema: dict[str, Any] = {"type": "integer", "format": form}
    if field.type in LONGS:
        schema = {"type": ["string", "integer"], "format": form}
    kind = rules.WhichOneof("type")
    if kind is not None and hasattr(getattr(rules, kind), "gte"):
        bounds = getattr(rules, kind)
        names = {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum",
                 "lt": "exclusiveMaximum"}  # fmt: skip
        schema |= {told: getattr(bounds, rule) for rule, told in names.items()
                   if bounds.HasField(rule)}  # fmt: skip
    return schema


def text(field: FieldDescriptor, rules: Any) -> dict[str, Any]:
    """A string, with what its rules say."""
    schema: dict[str, Any] = {"type": "string"}
    if rules.HasField("pattern"):
        schema["pattern"] = rules.pattern
    if rules.HasField("min_len"):
        schema["minLength"] = rules.min_len
    if rules.HasField("max_len"):
        schema["maxLength"] = rules.max_len
    if rules.HasField("const"):
        schema["const"] = rules.const
    if getattr(rules, "in"):
        schema["enum"] = list(getattr(rules, "in"))
    if field.GetOptions().debug_redact:
        schema["format"] = "password"
    return schema


def leaf(descriptor: Descriptor, path: str) -> FieldDescriptor:
    """The field at a dotted path."""
    *above, last = path.split(".")
    for step in above:
        descriptor = inside(descriptor.fields_by_name[step])
    return descriptor.fields_by_name[last]


def flat(descriptor: Descriptor, prefix: str, depth: int) -> Iterable[tuple[str, FieldDescriptor]]:
    """The fields that a query can name: those of messages inside by dotted path."""
    for field in descriptor.fields:
        inner = field.message_type
        plain = inner is None or inner.full_name in WELL_KNOWN or inner.GetOptions().map_entry
        if plain:
            yield prefix + field.name, field
        elif not field.is_repeated and depth > 1:
            yield from flat(inside(field), f"{prefix}{field.name}.", depth - 1)


def short(full_name: str) -> str:
    """A schema's name: the message's, without the package `loom.v1`."""
    return re.sub(r"^loom\.v1\.", "", full_name)
