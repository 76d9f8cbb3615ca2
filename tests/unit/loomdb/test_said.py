"""What the index says of a message is what protobuf's own JSON says of it."""

import importlib
import json
import math
import random

import pytest
from google.protobuf import message_factory
from google.protobuf.json_format import MessageToDict

from loom.decider import Position, Recorded
from loom.v1 import data_pb2
from loomos.loomdb.project import project
from loomos.loomdb.said import said

CONTRACTS = (
    "checkpoint", "common", "data", "deployment", "loomdb", "marketplace", "resource_manager",
    "scheduler", "security",
)  # fmt: skip
TYPES = [
    descriptor
    for name in CONTRACTS
    for descriptor in importlib.import_module(
        f"loom.v1.{name}_pb2"
    ).DESCRIPTOR.message_types_by_name.values()
]
WHOLE = (0, 1, -1, 2**31 - 1, -(2**31), 2**53 + 1, 2**63 - 1, -(2**63))
NUMBERS = (0.5, -0.0, 1e300, math.inf, -math.inf, math.nan)
TEXTS = ("", "a", 'é"\\\0\n', "\U0001f600")
BITS = {"INT32": 31, "INT64": 63, "UINT32": 32, "UINT64": 64}
KINDS = {value: name for name, value in vars(type(TYPES[0].fields[0])).items() if "CPPTYPE" in name}


def fill(message, draw, depth=3):
    """Some of its fields with values that are hard to say."""
    for field in message.DESCRIPTOR.fields:
        if draw.random() < 0.3 or (field.message_type and depth == 0):
            continue
        if field.message_type and field.message_type.GetOptions().map_entry:
            continue
        if field.message_type:
            inner = getattr(message, field.name)
            part = inner.add() if field.is_repeated else inner
            part.SetInParent()
            fill(part, draw, depth - 1)
            continue
        value = value_of(field, draw)
        if field.is_repeated:
            getattr(message, field.name).extend([value, value])
        else:
            setattr(message, field.name, value)
    return message


def value_of(field, draw):
    if field.enum_type:
        return draw.choice([*field.enum_type.values_by_number, 77])
    kind = KINDS[field.cpp_type].removeprefix("CPPTYPE_")
    if kind in BITS:
        low = 0 if kind[0] == "U" else -(1 << BITS[kind])
        return draw.choice([one for one in WHOLE if low <= one < 1 << BITS[kind]])
    if kind == "BOOL":
        return draw.random() < 0.5
    if kind in ("FLOAT", "DOUBLE"):
        return draw.choice(NUMBERS)
    text = draw.choice(TEXTS)
    return text.encode() if field.type == field.TYPE_BYTES else text


def test_every_contract_message_is_said_as_protobuf_says_it():
    assert len(TYPES) > 300
    draw = random.Random(11)
    for descriptor in TYPES:
        for _ in range(5):
            message = fill(message_factory.GetMessageClass(descriptor)(), draw)
            expected = MessageToDict(message, preserving_proto_field_name=True)
            assert json.dumps(said(message)) == json.dumps(expected), descriptor.full_name


@pytest.mark.parametrize("text", ['{"b": 1.50, "a": "\\u0000\\ud800é"}', "[]", '"sealed"', "1e400"])
def test_a_users_payload_stands_in_the_index_as_he_told_it(text):
    event = data_pb2.EventAppended(
        stream_id="acme/run-1", organisation_id="acme", event_type="a.b", payload=text.encode()
    )
    place = Position("loomos.data", 0, 7)
    record = Recorded(
        event, "event.appended", "e", event.stream_id, 1, "acme", place, 5, "u", "c", "", ""
    )
    (row,) = project(record)
    payload, search = row.parameters[15:17]
    assert f'"payload": {text}}}' in payload
    told = json.loads(payload)
    assert told.pop("payload") == json.loads(text)
    expected = MessageToDict(event, preserving_proto_field_name=True)
    del expected["payload"]
    assert told == expected
    assert json.loads(search)["own_stream"] == "run-1"
