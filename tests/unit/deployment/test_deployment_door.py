"""Metrics that a registration takes from its artifact."""

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loom.kit.errors import Failure
from loom.v1 import deployment_pb2 as pb
from loomos.deployment.door import measured, prepare


def command(home: Path, content: bytes) -> pb.RegisterModelVersionRequest:
    location = "job-local-a/one/files/metrics.json"
    path = home / "artifacts" / location
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    file = pb.ArtifactFile(
        path="metrics.json",
        sha256=hashlib.sha256(content).digest(),
        size_bytes=len(content),
        location=location,
    )
    return pb.RegisterModelVersionRequest(artifact=pb.Artifact(files=[file]))


async def prepared(request: Any, home: Path) -> Any:
    shell: Any = SimpleNamespace(settings=SimpleNamespace(home=home))
    caller: Any = None
    return await prepare(request, caller, shell)


async def test_numbers_become_parts_per_million(tmp_path: Path) -> None:
    dataset = "ab" * 32
    summary = {
        "accuracy": 0.9472222,
        "epochs": 2,
        "dataset_sha256": dataset,
        "note": "x",
        "f": True,
    }
    request = await prepared(command(tmp_path, json.dumps(summary).encode()), tmp_path)
    found = {metric.name: metric.value_ppm for metric in request.metrics}
    assert found == {"accuracy": 947_222, "epochs": 2_000_000}
    assert request.lineage.dataset_sha256.hex() == dataset


async def test_what_the_caller_measured_is_kept(tmp_path: Path) -> None:
    request = command(tmp_path, b'{"accuracy": 0.1}')
    request.metrics.add(name="accuracy", value_ppm=5)
    assert (await prepared(request, tmp_path)).metrics[0].value_ppm == 5


async def test_a_changed_and_a_missing_file_are_refused_alike(tmp_path: Path) -> None:
    request = command(tmp_path, b'{"accuracy": 0.1}')
    path = tmp_path / "artifacts" / request.artifact.files[0].location
    told = []
    for step in (lambda: path.write_bytes(b'{"accuracy": 0.9}'), path.unlink):
        step()
        with pytest.raises(Failure) as refused:
            await prepared(request, tmp_path)
        told.append(refused.value.message)
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[1]",
        b'{"accuracy": NaN}',
        b'{"accuracy": 1e308}',
        b'{"accuracy": ' + b"9" * 400 + b"}",
        b'{"accuracy ": 0.5}',
        b'{"dataset_sha256": "zz"}',
        b'{"dataset_sha256": 5}',
        b"[" * 60_000,
        json.dumps({f"m{n}": n for n in range(300)}).encode(),
    ],
)
def test_nonsense_is_refused(content: bytes) -> None:
    with pytest.raises(Failure, match=r"^artifact.files\[0\]: "):
        measured(pb.RegisterModelVersionRequest(), content, "artifact.files[0]")
