"""What a reader of the contracts relies on: events in the past tense, field 1, every comment."""

import importlib
import importlib.util
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor

import loom.v1
from loom.v1 import common_pb2

ROOT = Path(__file__).resolve().parent.parent
PARTICIPLES = (
    "Begun", "Bound", "Broken", "Built", "Done", "Drawn", "Driven", "Found", "Frozen", "Given",
    "Held", "Kept", "Known", "Left", "Lost", "Made", "Met", "Paid", "Put", "Read", "Run", "Sent",
    "Set", "Shown", "Shut", "Sold", "Spent", "Split", "Stuck", "Swept", "Taken", "Told", "Won",
    "Written",
)  # fmt: skip
"""Past participles that do not end in -ed."""


def messages(descriptors: list[Descriptor]) -> Iterator[Descriptor]:
    for descriptor in descriptors:
        yield descriptor
        yield from messages(list(descriptor.nested_types))


def contracts() -> list:
    """Every compiled contract."""
    names = [m.name for m in pkgutil.iter_modules(loom.v1.__path__) if m.name.endswith("_pb2")]
    assert names, "no compiled contract: is the environment in sync?"
    return [importlib.import_module(f"loom.v1.{name}") for name in names]


def events() -> list[Descriptor]:
    return [
        message
        for contract in contracts()
        for message in messages(list(contract.DESCRIPTOR.message_types_by_name.values()))
        if message.GetOptions().HasExtension(common_pb2.event)
    ]


@pytest.mark.parametrize("event", events(), ids=lambda event: event.name)
def test_an_event_is_named_in_the_past_tense(event: Descriptor) -> None:
    last = re.findall(r"[A-Z][a-z0-9]*", event.name)[-1]
    assert last.endswith("ed") or last in PARTICIPLES, f"{event.full_name}: noun + past participle"


@pytest.mark.parametrize("event", events(), ids=lambda event: event.name)
def test_field_1_of_an_event_names_its_stream(event: Descriptor) -> None:
    first = event.fields_by_number.get(1)
    assert first is not None, f"{event.full_name} has no field 1"
    assert first.name.endswith("_id"), f"{event.full_name}.{first.name} is no stream's id"
    assert first.type == first.TYPE_STRING


def test_field_1_of_a_command_names_a_stream_or_shard() -> None:
    for contract in contracts():
        for service in contract.DESCRIPTOR.services_by_name.values():
            for method in service.methods:
                if method.output_type.name == "Receipt":
                    first = method.input_type.fields_by_number.get(1)
                    assert first is not None, f"{method.full_name}: its request has no field 1"
                    assert first.name.endswith("_id"), f"{first.full_name} names no stream"


def test_everything_in_a_contract_is_commented(tmp_path: Path) -> None:
    bare = [name for file in described(tmp_path) for name in uncommented(file)]
    assert not bare, f"without a comment: {bare}"


def described(folder: Path) -> list[descriptor_pb2.FileDescriptorProto]:
    """Our contracts with their comments, which generated code does not keep."""
    spec = importlib.util.spec_from_file_location("contracts_build", ROOT / "proto" / "build.py")
    assert spec is not None and spec.loader is not None
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    import google.api
    import grpc_tools
    from grpc_tools import protoc

    (folder / "rules").write_bytes(build.rules_descriptor_set())
    names = [
        str(f.relative_to(ROOT / "proto"))
        for f in sorted((ROOT / "proto").rglob("*.proto"))
        if ROOT / "proto" / "loom" in f.parents
    ]
    includes = [
        ROOT / "proto",
        Path(next(iter(google.api.__path__))).parent.parent,
        Path(next(iter(grpc_tools.__path__))) / "_proto",
    ]
    status = protoc.main(
        [
            "protoc",
            *(f"-I{include}" for include in includes),
            f"--descriptor_set_in={folder / 'rules'}",
            "--include_source_info",
            f"--descriptor_set_out={folder / 'described'}",
            *names,
        ]
    )
    assert status == 0
    found = descriptor_pb2.FileDescriptorSet.FromString((folder / "described").read_bytes())
    return list(found.file)


def uncommented(file: descriptor_pb2.FileDescriptorProto) -> Iterator[str]:
    """Names of the messages, fields, enums, values, services and RPCs without a comment."""
    commented = {
        tuple(place.path)
        for place in file.source_code_info.location
        if place.leading_comments.strip() or place.trailing_comments.strip()
    }
    for place in file.source_code_info.location:
        path = tuple(place.path)
        declared = len(path) % 2 == 0 and path[:1] != () and names_a_thing(path)
        if declared and path not in commented:
            yield f"{file.name}:{place.span[0] + 1}"


def names_a_thing(path: tuple[int, ...]) -> bool:
    """Whether a source path is that of a declaration: protobuf's own field numbers, by depth."""
    inside: dict[int | None, dict[int, int | None]] = {
        4: {2: None, 3: 4, 4: 5},  # in a message: fields, messages, enums
        5: {2: None},  # in an enum: values
        6: {2: None},  # in a service: RPCs
    }
    kind: int | None = path[0]
    if kind not in inside:
        return False
    for number in path[2::2]:
        if number not in inside.get(kind, {}):
            return False
        kind = inside[kind][number]
    return True
