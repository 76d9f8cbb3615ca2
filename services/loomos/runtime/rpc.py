"""The Open Inference Protocol V2 over gRPC: `inference.GRPCInferenceService`.

1. People come here without a client certificate, so the token is all that identifies them; TLS
   keeps it secret. The control door (`loom.v1.Runtime`) is another port, with client certificates.
2. Tensors come raw or typed, never both; the answer is of the same kind.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import DecodeError, Message

from inference import grpc_service_pb2 as pb
from loom.kit import observe, tls
from loom.kit.caller import Caller
from loom.kit.config import InvalidSetting, Settings
from loom.kit.errors import Failure, failure_of, trailers_of
from loomos.runtime.door import (
    EXTENSIONS,
    REQUEST_BYTES_MAX,
    SERVER_NAME,
    SERVER_VERSION,
    Answer,
    Door,
)
from loomos.runtime.frames import raw_of
from loomos.runtime.plugins import TensorSpec
from loomos.runtime.tensors import Given, bad

__all__ = ["serve"]

SERVICE = "inference.GRPCInferenceService"
OPTIONS = (
    ("grpc.max_receive_message_length", REQUEST_BYTES_MAX),
    ("grpc.max_metadata_size", 16 * 1024),
    ("grpc.so_reuseport", 0),
)
CALLS_AT_ONCE_MAX = 256

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
}
"""The typed field of each element type; FP16 has none and comes raw only."""

Answering = Callable[[Door, Caller, Any], Awaitable[Message]]


async def serve(door: Door, settings: Settings, listen: str) -> tuple[grpc.aio.Server, str]:
    """Open the inference door; the server, and `host:port` as bound."""
    server = grpc.aio.server(options=OPTIONS, maximum_concurrent_rpcs=CALLS_AT_ONCE_MAX)
    handlers = {
        name: handler(door, name, request, answering)
        for name, request, answering in (
            ("ServerLive", pb.ServerLiveRequest, server_live),
            ("ServerReady", pb.ServerReadyRequest, server_ready),
            ("ModelReady", pb.ModelReadyRequest, model_ready),
            ("ServerMetadata", pb.ServerMetadataRequest, server_metadata),
            ("ModelMetadata", pb.ModelMetadataRequest, model_metadata),
            ("ModelInfer", pb.ModelInferRequest, model_infer),
        )
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    credentials = tls.server_credentials(settings, client_certificates=False)
    try:
        port = server.add_secure_port(listen, credentials)
    except RuntimeError as error:
        raise InvalidSetting(f"LOOMOS_INFERENCE_GRPC is {listen!r}: it is taken") from error
    await server.start()
    return server, f"{listen.rpartition(':')[0]}:{port}"


def handler(
    door: Door, name: str, request_class: type[Message], answering: Answering
) -> grpc.RpcMethodHandler:
    """One RPC: identity first, then the request, then the answer or a status."""

    async def handle(data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        try:
            caller = await door.caller(authorization(context))
            request = request_class()
            request.ParseFromString(data)
            return (await answering(door, caller, request)).SerializeToString()
        except (Failure, DecodeError, Exception) as error:
            failure = failure_of(error)
            if failure.reason == "INTERNAL":
                observe.logger("inference").error("call failed", method=name, exc_info=error)
            await context.abort(
                grpc.StatusCode[failure.code], failure.message, trailers_of(failure)
            )
            raise AssertionError("abort raises") from error

    return grpc.unary_unary_rpc_method_handler(handle)


def authorization(context: grpc.aio.ServicerContext) -> str:
    """The authorization header, which may stand once."""
    found = [value for key, value in context.invocation_metadata() or () if key == "authorization"]
    if len(found) > 1:
        raise Failure("UNAUTHENTICATED", "authorization is given twice")
    return str(found[0]) if found else ""


async def server_live(_: Door, __: Caller, ___: pb.ServerLiveRequest) -> Message:
    """The process answers."""
    return pb.ServerLiveResponse(live=True)


async def server_ready(_: Door, __: Caller, ___: pb.ServerReadyRequest) -> Message:
    """The process takes requests."""
    return pb.ServerReadyResponse(ready=True)


async def server_metadata(_: Door, __: Caller, ___: pb.ServerMetadataRequest) -> Message:
    """What serves."""
    return pb.ServerMetadataResponse(
        name=SERVER_NAME, version=SERVER_VERSION, extensions=["raw_input_contents", *EXTENSIONS]
    )


async def model_ready(door: Door, caller: Caller, request: pb.ModelReadyRequest) -> Message:
    """Whether the model's worker answers."""
    served = door.find(caller, request.name, request.version)
    return pb.ModelReadyResponse(ready=served.replica.ready)


async def model_metadata(door: Door, caller: Caller, request: pb.ModelMetadataRequest) -> Message:
    """What the model takes and gives."""
    worker = door.find(caller, request.name, request.version).replica.worker()
    return pb.ModelMetadataResponse(
        name=request.name,
        versions=door.models.versions(request.name),
        platform=worker.platform,
        inputs=[described(spec) for spec in worker.inputs],
        outputs=[described(spec) for spec in worker.outputs],
    )


def described(spec: TensorSpec) -> pb.ModelMetadataResponse.TensorMetadata:
    """A tensor's metadata."""
    return pb.ModelMetadataResponse.TensorMetadata(
        name=spec.name, datatype=spec.datatype, shape=spec.shape
    )


async def model_infer(door: Door, caller: Caller, request: pb.ModelInferRequest) -> Message:
    """One inference."""
    raw = bool(request.raw_input_contents)
    given = raw_inputs(request) if raw else typed_inputs(request)
    wanted = [one.name for one in request.outputs]
    answer = await door.infer(caller, request.model_name, request.model_version, given, wanted)
    return answered(answer, request.id, raw)


def raw_inputs(request: pb.ModelInferRequest) -> list[Given]:
    """The inputs with their raw bytes, in order."""
    if len(request.raw_input_contents) != len(request.inputs):
        raise bad(
            "raw_input_contents",
            f"{len(request.raw_input_contents)} of them for {len(request.inputs)} inputs",
        )
    for index, one in enumerate(request.inputs):
        if one.HasField("contents") and one.contents.ByteSize():
            raise bad(f"inputs[{index}].contents", "stands beside raw_input_contents: send one")
    return [
        Given(one.name, one.datatype, one.shape, raw=raw)
        for one, raw in zip(request.inputs, request.raw_input_contents, strict=True)
    ]


def typed_inputs(request: pb.ModelInferRequest) -> list[Given]:
    """The inputs with their typed elements."""
    given: list[Given] = []
    for index, one in enumerate(request.inputs):
        field = CONTENTS.get(one.datatype)
        if field is None:
            raise bad(f"inputs[{index}].datatype", f"{one.datatype!r:.32} has no typed contents")
        given.append(
            Given(one.name, one.datatype, one.shape, values=list(getattr(one.contents, field)))
        )
    return given


def answered(answer: Answer, request_id: str, raw: bool) -> pb.ModelInferResponse:
    """The protocol's answer, raw or typed like the request."""
    response = pb.ModelInferResponse(
        model_name=answer.name, model_version=answer.version, id=request_id
    )
    for spec, array in answer.outputs:
        output = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=shape_of(array))
        field = CONTENTS.get(spec.datatype)
        if raw or field is None:
            response.raw_output_contents.append(raw_of(array, spec.datatype))
        else:
            getattr(output.contents, field).extend(array.ravel().tolist())
    return response


def shape_of(array: np.ndarray) -> Sequence[int]:
    """The shape as the protocol writes it."""
    return [int(size) for size in array.shape]
