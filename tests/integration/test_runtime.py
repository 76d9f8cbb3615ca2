"""The runtime for real: worker processes, both inference doors and the control door over TLS."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import psutil
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from tests.serving import DEPLOYMENT, MODEL, World

from inference import grpc_service_pb2 as oip
from loom.kit.client import Client
from loom.kit.errors import Failure
from loom.v1 import runtime_pb2
from loomos.runtime.main import running
from loomos.runtime.process import Process


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float32), labels


@pytest.fixture(scope="module")
def model(digits: tuple[np.ndarray, np.ndarray], tmp_path_factory: Any) -> bytes:
    images, labels = digits
    scaler = StandardScaler().fit(images[:1400])
    fitted = LogisticRegression(max_iter=200).fit(scaler.transform(images[:1400]), labels[:1400])
    path = tmp_path_factory.mktemp("model") / "model.npz"
    np.savez(
        path,
        coef=fitted.coef_,
        intercept=fitted.intercept_,
        classes=fitted.classes_,
        mean=np.asarray(scaler.mean_),
        scale=np.asarray(scaler.scale_),
    )
    return path.read_bytes()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path)
    settings = world.settings("runtime")
    try:
        async with running(settings, world.authenticate) as world.runtime:
            yield world
    finally:
        await world.orders.close()


def request(images: np.ndarray, raw: bool = True, **more: Any) -> Any:
    made = oip.ModelInferRequest(model_name=MODEL, id="r-1", **more)
    tensor = made.inputs.add(name="input", datatype="FP32", shape=images.shape)
    if raw:
        made.raw_input_contents.append(images.astype("<f4").tobytes())
    else:
        tensor.contents.fp32_contents.extend(images.ravel().tolist())
    return made


def labels_of(answer: Any) -> np.ndarray:
    index = [one.name for one in answer.outputs].index("label")
    if answer.raw_output_contents:
        return np.frombuffer(answer.raw_output_contents[index], "<i8")
    return np.array(answer.outputs[index].contents.int64_contents)


@pytest.mark.parametrize("raw", [True, False])
async def test_grpc_classifies_digits(world: World, digits: Any, model: bytes, raw: bool) -> None:
    images, labels = digits
    answer = await world.load(world.artifact(model))
    assert answer.endpoint.served_name == MODEL
    inferred = await world.call("ModelInfer", request(images[1400:], raw), oip.ModelInferResponse)
    assert np.mean(labels_of(inferred) == labels[1400:]) > 0.88
    assert (inferred.id, inferred.model_version) == ("r-1", "1")
    metadata = await world.call(
        "ModelMetadata", oip.ModelMetadataRequest(name=MODEL), oip.ModelMetadataResponse
    )
    assert [(one.name, list(one.shape)) for one in metadata.inputs] == [("input", [-1, 64])]


async def test_rest_classifies_digits(world: World, digits: Any, model: bytes) -> None:
    images, labels = digits
    await world.load(world.artifact(model))
    tensor = {"name": "input", "datatype": "FP32", "shape": [2, 64], "data": images[:2].tolist()}
    body = {"id": "r-2", "inputs": [tensor], "outputs": [{"name": "label"}]}
    status, answer = await world.web(f"/v2/models/{MODEL}/infer", body)
    assert status == 200
    assert answer["outputs"][0]["data"] == labels[:2].tolist()
    assert answer["id"] == "r-2"
    assert await world.web(f"/v2/models/{MODEL}/versions/1/ready") == (
        200,
        {"name": MODEL, "ready": True},
    )
    assert (await world.web("/v2/health/ready"))[0] == 200


async def test_every_door_wants_a_token_and_strangers_find_nothing(
    world: World, digits: Any, model: bytes
) -> None:
    await world.load(world.artifact(model))
    for path in ("/v2/health/live", "/v2", f"/v2/models/{MODEL}"):
        assert (await world.web(path, token=""))[0] == 401
        assert (await world.web(path, token="forged"))[0] == 401
    foreign = await world.web(f"/v2/models/{MODEL}", token="eve")
    unknown = await world.web("/v2/models/acme.vision.nothing", token="eve")
    assert foreign[0] == unknown[0] == 404
    assert foreign[1]["error"].replace("digits", "nothing") == unknown[1]["error"]
    for token, code in (("", "UNAUTHENTICATED"), ("eve", "NOT_FOUND")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await world.call("ModelInfer", request(digits[0][:1]), oip.ModelInferResponse, token)
        assert refused.value.code().name == code


async def test_only_the_deployment_service_gives_orders(world: World, model: bytes) -> None:
    stranger = Client(world.settings("gateway"), world.resolve)
    try:
        with pytest.raises(Failure):
            await stranger.ask(runtime_pb2.ListServedModelsRequest())
    finally:
        await stranger.close()
    await world.load(world.artifact(model))
    listed: Any = await world.orders.ask(runtime_pb2.ListServedModelsRequest())
    assert [(one.version, one.ready) for one in listed.models] == [(1, True)]


def body(**tensor: Any) -> dict[str, Any]:
    one = {"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [0.0] * 64}
    return {"inputs": [{**one, **tensor}]}


BAD = [
    (body(name="pixels"), "inputs[0].name"),
    (body(datatype="FP64"), "inputs[0].datatype"),
    (body(shape=[1, 63]), "inputs[0].shape"),
    (body(shape=[64]), "inputs[0].shape"),
    (body(shape=[0, 64]), "inputs[0].shape"),
    (body(shape=[-1, 64]), "inputs[0].shape"),
    (body(shape=[2**40, 64]), "inputs[0].shape"),
    (body(shape=[1.5, 64]), "inputs[0].shape"),
    (body(data=[0.0] * 63), "inputs[0].data"),
    (body(data=[1e308] * 64), "inputs[0].data"),
    (body(data=["a"] * 64), "inputs[0].data"),
    (body(data=[[1], [2, 3]]), "inputs[0].data"),
    (body(data=None), "inputs[0].data"),
    (body(parameters={"binary_data_size": 256}), "inputs[0].parameters.binary_data_size"),
    (body(parameters={"shared_memory_region": "x"}), "inputs[0].parameters.shared_memory_region"),
    ({"inputs": []}, "inputs"),
    ({"inputs": body()["inputs"] * 2}, "inputs[1].name"),
    ({**body(), "outputs": [{"name": "secret"}]}, "outputs[0].name"),
    ({}, "inputs"),
    ([], "body"),
]


async def test_bad_tensors_are_refused_by_field(world: World, digits: Any, model: bytes) -> None:
    await world.load(world.artifact(model))
    for given, field in BAD:
        status, answer = await world.web(f"/v2/models/{MODEL}/infer", given)
        assert (status, answer["error"].split(":")[0]) == (400, field), given
    for raw in (b"", b"{", b'{"inputs": NaN}', b"[" * 100_000):
        assert (await world.web(f"/v2/models/{MODEL}/infer", raw=raw))[0] == 400
    assert (await world.web(f"/v2/models/{MODEL}/infer", raw=b" " * (17 << 20)))[0] == 413
    not_finite = digits[0][:1].copy()
    not_finite[0, 3] = np.nan
    short = request(digits[0][:1])
    short.raw_input_contents[0] = b"\0" * 8
    for wrong in (request(not_finite), short):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await world.call("ModelInfer", wrong, oip.ModelInferResponse)
        assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert str(refused.value.details()).startswith("inputs[0].data:")
    assert world.worker().is_running()


async def test_a_killed_worker_fails_its_requests_and_comes_back(
    world: World, digits: Any, model: bytes
) -> None:
    await world.load(world.artifact(model))
    worker = world.worker()
    os.kill(worker.pid, signal.SIGSTOP)
    waiting = asyncio.create_task(
        world.call("ModelInfer", request(digits[0][:1]), oip.ModelInferResponse)
    )
    assert world.runtime is not None
    replica = world.runtime.models.served[DEPLOYMENT].replica
    while replica._idle.is_set():
        await asyncio.sleep(0.01)
    os.kill(worker.pid, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as lost:
        await waiting
    assert lost.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "send it again" in str(lost.value.details())
    while not replica.ready:
        await asyncio.sleep(0.01)
    answer = await world.call("ModelInfer", request(digits[0][:1]), oip.ModelInferResponse)
    assert len(labels_of(answer)) == 1
    assert replica.restarts == 1


async def test_what_waits_goes_in_one_batch_and_each_gets_its_own(
    world: World, digits: Any, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, _ = digits
    await world.load(world.artifact(model))
    assert world.runtime is not None
    replica = world.runtime.models.served[DEPLOYMENT].replica
    alone = [(await replica.infer({"input": images[i : i + 1]}))["label"][0] for i in range(40)]
    infer, seen = Process.infer, []

    async def counted(self: Process, arrays: Any, rows: int) -> Any:
        seen.append(rows)
        return await infer(self, arrays, rows)

    monkeypatch.setattr(Process, "infer", counted)
    answers = await asyncio.gather(
        *(replica.infer({"input": images[i : i + 1]}) for i in range(40))
    )
    assert [one["label"][0] for one in answers] == alone
    assert sum(seen) == 40
    assert len(seen) < 10


async def test_a_worker_holds_no_rights(world: World, model: bytes) -> None:
    answer = await world.load(world.artifact(model))
    worker = world.worker()
    assert set(answer.endpoint.isolation) >= {"rlimits"}
    variables = {name for name in worker.environ() if not name.startswith("LC_")}
    assert variables == {"LANG", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"}
    if os.getuid() == 0:
        assert set(answer.endpoint.isolation) == {"filesystem", "network", "rlimits", "uid"}
        assert 0 not in worker.uids()
        assert Path(f"/proc/{worker.pid}/root").resolve() == world.home / "runtime" / "empty"
        theirs, ours = (Path(f"/proc/{one}/ns/net").readlink() for one in (worker.pid, os.getpid()))
        assert theirs != ours


async def test_what_is_not_as_registered_is_never_loaded(world: World, model: bytes) -> None:
    changed = world.artifact(model)
    path = world.store / changed.files[0].location
    path.write_bytes(model[:-1] + bytes([model[-1] ^ 1]))
    with pytest.raises(Failure, match="not the file that was registered"):
        await world.load(changed)
    linked = world.artifact(model, "jobs/two/model.npz")
    path = world.store / "jobs" / "two" / "model.npz"
    path.rename(world.home / "elsewhere.npz")
    path.symlink_to(world.home / "elsewhere.npz")
    with pytest.raises(Failure, match="cannot be read"):
        await world.load(linked)
    pickled = world.home / "pickled.npz"
    np.savez(pickled, coef=np.array([object()], dtype=object), intercept=[1.0], classes=[0, 1])
    with pytest.raises(Failure, match="no npz file of plain arrays"):
        await world.load(world.artifact(pickled.read_bytes()))
    with pytest.raises(Failure, match="no runtime plugin"):
        await world.load(world.artifact(model), plugin="unheard-of")
    assert world.runtime is not None
    assert not world.runtime.models.served


async def test_orders_are_fenced_swapped_kept_and_ended(world: World, model: bytes) -> None:
    artifact = world.artifact(model)
    await world.load(artifact, revision=2)
    first = world.worker()
    with pytest.raises(Failure, match="overtaken by 2"):
        await world.load(artifact, revision=1)
    await world.load(artifact, revision=3)
    assert world.worker().pid != first.pid
    second = world.settings("runtime")
    async with running(second, world.authenticate) as restarted:
        replica = restarted.models.served[DEPLOYMENT].replica
        await replica.first
        assert replica.ready
        with pytest.raises(Failure, match="overtaken by 3"):
            await restarted.models.load(
                runtime_pb2.LoadModelRequest(deployment_id=DEPLOYMENT, revision=2)
            )
    await world.orders.tell(runtime_pb2.UnloadModelRequest(deployment_id=DEPLOYMENT, revision=3))
    assert (await world.web(f"/v2/models/{MODEL}"))[0] == 404
    async with running(second, world.authenticate) as restarted:
        assert not restarted.models.served
    assert not [one for one in psutil.Process().children() if works(one)]


def works(process: psutil.Process) -> bool:
    """Whether this is a worker that still runs; a zombie only waits to be noticed."""
    try:
        return "worker" in " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return False
