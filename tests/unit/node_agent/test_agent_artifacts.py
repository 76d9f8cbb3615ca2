"""What a job leaves is taken over whole and unchanged, or not at all."""

import os
from pathlib import Path

import pytest

from loomos.node_agent.artifacts import BadArtifact, fetch, keep, remove

LIMIT = 1 << 20


def made(folder: Path) -> Path:
    (folder / "deep").mkdir(parents=True)
    (folder / "model").write_bytes(b"weights")
    (folder / "deep" / "part").write_bytes(b"more")
    return folder


def test_an_artifact_comes_back_byte_for_byte(tmp_path: Path) -> None:
    source = made(tmp_path / "source")
    kept = keep(source, tmp_path / "store", "job-1", LIMIT)
    fetch(tmp_path / "store", kept.location, kept.sha256, tmp_path / "back")
    assert (tmp_path / "back" / "files" / "model").read_bytes() == b"weights"
    assert (tmp_path / "back" / "files" / "deep" / "part").read_bytes() == b"more"
    assert [file.path for file in kept.files] == ["deep/part", "model"]
    assert kept.size_bytes == 11


def test_the_same_bytes_are_the_same_artifact(tmp_path: Path) -> None:
    first = keep(made(tmp_path / "a"), tmp_path / "store", "job-1", LIMIT)
    second = keep(made(tmp_path / "b"), tmp_path / "store", "job-1", LIMIT)
    assert first == second
    assert len(list((tmp_path / "store" / "job-1").iterdir())) == 1


def test_a_single_file_is_an_artifact_too(tmp_path: Path) -> None:
    (tmp_path / "epoch-1").write_bytes(b"x")
    kept = keep(tmp_path / "epoch-1", tmp_path / "store", "job-1", LIMIT)
    assert [file.path for file in kept.files] == ["epoch-1"]


@pytest.mark.parametrize("trap", ["link", "folder link", "hard link", "pipe", "name", "size"])
def test_a_trap_is_refused_and_leaves_nothing(tmp_path: Path, trap: str) -> None:
    source = made(tmp_path / "source")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    match trap:
        case "link":
            (source / "trap").symlink_to(secret)
        case "folder link":
            (source / "trap").symlink_to(tmp_path)
        case "hard link":
            os.link(secret, source / "trap")
        case "pipe":
            os.mkfifo(source / "trap")
        case "name":
            (source / "tr\nap").write_text("x")
        case "size":
            (source / "trap").write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(BadArtifact):
        keep(source, tmp_path / "store", "job-1", LIMIT)
    assert list((tmp_path / "store" / "job-1").iterdir()) == []


def test_a_checkpoint_that_is_itself_a_link_is_refused(tmp_path: Path) -> None:
    made(tmp_path / "source")
    (tmp_path / "link").symlink_to(tmp_path / "source")
    with pytest.raises(BadArtifact):
        keep(tmp_path / "link", tmp_path / "store", "job-1", LIMIT)


@pytest.mark.parametrize("location", ["../job-1/x", "job-1", "/etc/passwd", "job-1/../.."])
def test_a_location_stays_in_the_store(tmp_path: Path, location: str) -> None:
    with pytest.raises(BadArtifact, match="location"):
        fetch(tmp_path, location, bytes(32), tmp_path / "back")


def test_a_changed_byte_is_found(tmp_path: Path) -> None:
    kept = keep(made(tmp_path / "source"), tmp_path / "store", "job-1", LIMIT)
    (tmp_path / "store" / kept.location / "files" / "model").write_bytes(b"Weights")
    with pytest.raises(BadArtifact, match="model"):
        fetch(tmp_path / "store", kept.location, kept.sha256, tmp_path / "back")


def test_what_a_job_made_hard_to_remove_is_removed(tmp_path: Path) -> None:
    source = made(tmp_path / "source")
    (source / "deep").chmod(0)
    remove(source)
    assert not source.exists()
