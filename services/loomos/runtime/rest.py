"""The Open Inference Protocol V2 over REST, with the binary tensor extension.

1. Identity is settled before a body is read; a body has a bounded size.
2. Errors are `{"error": …}` with the status of their kind, as the protocol says.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response

from loom.kit import observe
from loom.kit.errors import Failure, failure_of, shown
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
from loomos.runtime.tensors import Given, bad, field_of

__all__ = ["application"]

HEAD_LENGTH = "inference-header-content-length"
INPUTS_MAX = 64
BODY_SECONDS_MAX = 30.0


def application(door: Door) -> FastAPI:
    """The routes of the protocol; every one of them wants a token."""
    app = FastAPI(title="LoomOS inference", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Exception, failed)
    app.add_exception_handler(Failure, failed)
    app.add_exception_handler(404, nowhere)
    app.add_exception_handler(405, nowhere)

    async def caller(request: Request) -> Any:
        return await door.caller(request.headers.get("authorization", ""))

    @app.get("/v2/health/live")
    async def live(request: Request) -> Response:
        await caller(request)
        return JSONResponse({"live": True})

    @app.get("/v2/health/ready")
    async def ready(request: Request) -> Response:
        await caller(request)
        return JSONResponse({"live": True, "ready": True})

    @app.get("/v2")
    async def server(request: Request) -> Response:
        await caller(request)
        about = {"name": SERVER_NAME, "version": SERVER_VERSION, "extensions": EXTENSIONS}
        return JSONResponse(about)

    @app.get("/v2/models/{name}")
    @app.get("/v2/models/{name}/versions/{version}")
    async def model(request: Request, name: str, version: str = "") -> Response:
        served = door.find(await caller(request), name, version)
        worker = served.replica.worker()
        return JSONResponse(
            {
                "name": name,
                "versions": door.models.versions(name),
                "platform": worker.platform,
                "inputs": [described(spec) for spec in worker.inputs],
                "outputs": [described(spec) for spec in worker.outputs],
            }
        )

    @app.get("/v2/models/{name}/ready")
    @app.get("/v2/models/{name}/versions/{version}/ready")
    async def model_ready(request: Request, name: str, version: str = "") -> Response:
        is_ready = door.find(await caller(request), name, version).replica.ready
        return JSONResponse({"name": name, "ready": is_ready}, 200 if is_ready else 503)

    @app.post("/v2/models/{name}/infer")
    @app.post("/v2/models/{name}/versions/{version}/infer")
    async def infer(request: Request, name: str, version: str = "") -> Response:
        who = await caller(request)
        body, binary = split(await read(request), request.headers.get(HEAD_LENGTH))
        given = inputs_of(body, binary)
        wanted = outputs_of(body)
        answer = await door.infer(who, name, version, given, list(wanted))
        return answered(answer, body, wanted)

    return app


async def failed(request: Request, error: Exception) -> JSONResponse:
    """An error as the protocol writes it."""
    failure = failure_of(error)
    if failure.reason == "INTERNAL":
        observe.logger("rest").error("request failed", path=request.url.path, exc_info=error)
    return JSONResponse({"error": failure.message}, failure.http_status)


async def nowhere(request: Request, _: Exception) -> JSONResponse:
    """No such route."""
    told = f"{request.method} {shown(request.url.path)} is not part of the protocol"
    return JSONResponse({"error": told}, 404)


async def read(request: Request) -> bytes:
    """The body, bounded in size and time."""
    if request.headers.get("content-encoding", "identity") != "identity":
        raise Failure(
            "INVALID_ARGUMENT",
            "content-encoding: want none: send the body as it is",
            http_status=415,
        )
    async with asyncio.timeout(BODY_SECONDS_MAX):
        return await received(request.stream())


async def received(chunks: AsyncIterator[bytes]) -> bytes:
    """All chunks, as long as they are not too many."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        size += len(chunk)
        if size > REQUEST_BYTES_MAX:
            raise Failure(
                "INVALID_ARGUMENT",
                f"the body has more than {REQUEST_BYTES_MAX} bytes",
                http_status=413,
            )
        parts.append(chunk)
    return b"".join(parts)


def split(body: bytes, head_length: str | None) -> tuple[dict[str, Any], memoryview]:
    """The JSON head and the binary tensors behind it."""
    length = len(body)
    if head_length is not None:
        if not head_length.isascii() or not head_length.isdigit() or int(head_length) > length:
            raise bad(HEAD_LENGTH, f"{shown(head_length)}: the body has {length} bytes")
        length = int(head_length)
    try:
        head = json.loads(body[:length], parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise Failure("INVALID_ARGUMENT", f"the body is not JSON: {error}") from error
    return field_of(head, dict, "body"), memoryview(body)[length:]


def no_constant(name: str) -> Any:
    """JSON has no NaN and no Infinity."""
    raise ValueError(f"{name} is no JSON number")


def inputs_of(body: dict[str, Any], binary: memoryview) -> list[Given]:
    """The inputs of a request; the binary ones follow one another without gaps."""
    inputs = field_of(body.get("inputs"), list, "inputs")
    if len(inputs) > INPUTS_MAX:
        raise bad("inputs", f"{len(inputs)} of them: at most {INPUTS_MAX}")
    given: list[Given] = []
    offset = 0
    for index, one in enumerate(inputs):
        field = f"inputs[{index}]"
        field_of(one, dict, field)
        parameters = parameters_of(one, field)
        shape = field_of(one.get("shape"), list, f"{field}.shape")
        named = Given(
            field_of(one.get("name"), str, f"{field}.name"),
            field_of(one.get("datatype"), str, f"{field}.datatype"),
            [field_of(size, int, f"{field}.shape") for size in shape],
        )
        if "binary_data_size" in parameters:
            size = field_of(parameters["binary_data_size"], int, f"{field}.parameters")
            if not 0 <= size <= len(binary) - offset:
                raise bad(f"{field}.parameters.binary_data_size", f"{size}: more than there is")
            given.append(named._replace(raw=binary[offset : offset + size]))
            offset += size
        else:
            given.append(named._replace(values=field_of(one.get("data"), list, f"{field}.data")))
    if offset != len(binary):
        raise bad("inputs", f"{len(binary) - offset} bytes behind the last binary tensor")
    return given


def parameters_of(one: dict[str, Any], field: str) -> dict[str, Any]:
    """A part's parameters; shared memory is not offered."""
    parameters = field_of(one.get("parameters", {}), dict, f"{field}.parameters")
    if "shared_memory_region" in parameters:
        raise bad(f"{field}.parameters.shared_memory_region", "shared memory is not offered")
    return parameters


def outputs_of(body: dict[str, Any]) -> dict[str, bool]:
    """The wanted outputs, and whether each is to be binary."""
    binary = bool(parameters_of(body, "body").get("binary_data_output", False))
    wanted: dict[str, bool] = {}
    outputs = field_of(body.get("outputs", []), list, "outputs")
    for index, one in enumerate(outputs[:INPUTS_MAX]):
        field = f"outputs[{index}]"
        name = field_of(field_of(one, dict, field).get("name"), str, f"{field}.name")
        wanted[name] = bool(parameters_of(one, field).get("binary_data", binary))
    return wanted


def answered(answer: Answer, body: dict[str, Any], wanted: dict[str, bool]) -> Response:
    """The protocol's answer, with binary tensors where asked for."""
    default = bool(parameters_of(body, "body").get("binary_data_output", False))
    outputs: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for spec, array in answer.outputs:
        told: dict[str, Any] = {
            "name": spec.name,
            "datatype": spec.datatype,
            "shape": list(array.shape),
        }
        if wanted.get(spec.name, default):
            parts.append(raw_of(array, spec.datatype))
            told["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            told["data"] = array.ravel().tolist()
        outputs.append(told)
    head: dict[str, Any] = {
        "model_name": answer.name,
        "model_version": answer.version,
        "outputs": outputs,
    }
    if isinstance(body.get("id"), str):
        head["id"] = body["id"]
    if not parts:
        return JSONResponse(head)
    text = json.dumps(head, separators=(",", ":")).encode()
    return Response(
        b"".join((text, *parts)),
        media_type="application/octet-stream",
        headers={HEAD_LENGTH: str(len(text))},
    )


def described(spec: TensorSpec) -> dict[str, Any]:
    """A tensor's metadata."""
    shape: Sequence[int] = spec.shape
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(shape)}
