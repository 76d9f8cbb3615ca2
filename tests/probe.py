"""The probe contract (tests/contracts), compiled for a test, and doors that answer it."""

import functools
import importlib.resources
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import buf.validate.validate_pb2
import google.api
import google.api.annotations_pb2
import grpc_tools
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_tools import protoc

from loom.kit.errors import Failure
from loom.v1 import common_pb2

ROOT = Path(__file__).resolve().parent
FILE = "loom/probe/v1/probe.proto"


@dataclass(frozen=True)
class Someone:
    """A caller as the security service would know it."""

    principal: str
    kind: str
    organisation_id: str = "acme"


@functools.cache
def commented() -> bytes:
    """The probe contract as a descriptor set with comments."""
    known = descriptor_pb2.FileDescriptorSet()
    for module in (
        descriptor_pb2,
        importlib.import_module("google.protobuf.duration_pb2"),
        importlib.import_module("google.protobuf.field_mask_pb2"),
        importlib.import_module("google.protobuf.timestamp_pb2"),
        buf.validate.validate_pb2,
    ):
        known.file.add().ParseFromString(module.DESCRIPTOR.serialized_pb)
    with tempfile.TemporaryDirectory() as folder:
        rules, made = Path(folder) / "rules.binpb", Path(folder) / "made.binpb"
        rules.write_bytes(known.SerializeToString())
        includes = [
            ROOT / "contracts",
            ROOT.parent / "proto",
            Path(next(iter(google.api.__path__))).parent.parent,
            Path(str(importlib.resources.files(grpc_tools))) / "_proto",
        ]
        status = protoc.main(
            [
                "protoc",
                *(f"-I{include}" for include in includes),
                f"--descriptor_set_in={rules}",
                f"--descriptor_set_out={made}",
                "--include_source_info",
                FILE,
            ]
        )
        assert status == 0
        return made.read_bytes()


@functools.cache
def contract() -> Any:
    """The probe contract as a compiled module."""
    assert common_pb2.DESCRIPTOR
    pool = descriptor_pool.Default()
    file = descriptor_pb2.FileDescriptorSet.FromString(commented()).file[0]
    file.ClearField("source_code_info")
    pool.AddSerializedFile(file.SerializeToString())
    module = ModuleType("probe_pb2")
    module.DESCRIPTOR = pool.FindFileByName(FILE)
    for name, descriptor in module.DESCRIPTOR.message_types_by_name.items():
        setattr(module, name, message_factory.GetMessageClass(descriptor))
    return module


class Doors:
    """Answers probes and keeps what came in."""

    def __init__(self) -> None:
        self.told: list[tuple[Message, Any]] = []
        self.asked: list[tuple[str, Message, Any]] = []
        self.failures: list[Exception] = []
        self.refused: list[tuple[str, Exception]] = []

    async def tell(self, request: Message, call: Any) -> Message:
        self.told.append((request, call))
        if self.failures:
            raise self.failures.pop(0)
        return common_pb2.Receipt(
            id="probe-acme-1",
            version=1,
            positions=[common_pb2.Position(topic="loomos.probe", partition=0, offset=7)],
            command_id=call.command_id,
            correlation_id=call.correlation_id,
        )

    async def refuse(self, route: Any, data: bytes, failure: Exception, call: Any) -> None:
        self.refused.append((route.method, failure))

    async def ask(self, method: str, request: Any, call: Any) -> Message:
        self.asked.append((method, request, call))
        if self.failures:
            raise self.failures.pop(0)
        probe = contract().Probe(probe_id="probe-1", principal=call.caller.principal, mood=1)
        if method == "ListProbes":
            return contract().ListProbesResponse(probes=[probe])
        return probe

    async def stream(
        self, method: str, requests: AsyncIterator[Any], call: Any
    ) -> AsyncIterator[Message]:
        async for request in requests:
            if method == "TalkToProbe":
                yield contract().ProbeLine(text=request.text.upper())
                continue
            if self.failures:
                raise self.failures.pop(0)
            for text in ("one\n", "two\n"):
                yield contract().ProbeLine(text=text)


async def authenticate(spiffe: str | None, bearer: str | None) -> Any:
    """Knows everyone with a certificate, and tokens `user.<name>`."""
    if bearer is not None:
        if not bearer.startswith("user."):
            raise Failure("UNAUTHENTICATED", "the token is not valid")
        return Someone(f"user:{bearer[5:]}", "user")
    assert spiffe is not None
    _, kind, name = spiffe.removeprefix("spiffe://").split("/")
    return Someone(f"{kind}:{name}", kind)
