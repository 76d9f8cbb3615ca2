"""The store's plugin: what it reads and deletes, and what it never touches."""

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from loomos.checkpoint.plugins import Spoiled
from loomos.checkpoint.plugins.local import Local

JOB = "job-local-a"
FOREVER_US = 2**60


class Kept:
    """A checkpoint in a store, as a node agent leaves it: `group/digest/{manifest.json,files/}`."""

    def __init__(self, root: Path, files: dict[str, bytes]) -> None:
        rows = [[path, len(data), hashlib.sha256(data).hexdigest()] for path, data in files.items()]
        self.manifest = json.dumps(sorted(rows), separators=(",", ":")).encode()
        self.sha256 = hashlib.sha256(self.manifest).digest()
        self.size = sum(len(data) for data in files.values())
        self.folder = root / JOB / self.sha256.hex()
        for path, data in files.items():
            file = self.folder / "files" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        (self.folder / "manifest.json").write_bytes(self.manifest)


@pytest.fixture
def root(tmp_path):
    found = tmp_path / "store"
    found.mkdir()
    return found


@pytest.fixture
def kept(root):
    return Kept(root, {"model.npz": b"weights" * 1000, "state/rng.json": b"{}"})


def spoiled(root, kept, text):
    with pytest.raises(Spoiled, match=text):
        Local(root).verify(JOB, kept.sha256, kept.size)


def test_a_whole_one_is_verified(root, kept):
    Local(root).verify(JOB, kept.sha256, kept.size)


def test_a_changed_byte_is_found(root, kept):
    (kept.folder / "files" / "model.npz").write_bytes(b"Weights" * 1000)
    spoiled(root, kept, "model.npz is not the file")


@pytest.mark.parametrize("path", ["manifest.json", "files/model.npz", "files/state/rng.json"])
def test_a_missing_part_is_found(root, kept, path):
    (kept.folder / path).unlink()
    spoiled(root, kept, "missing")


def test_a_changed_manifest_is_found(root, kept):
    (kept.folder / "manifest.json").write_bytes(b"[]")
    spoiled(root, kept, "manifest")


def test_another_size_is_found(root, kept):
    kept.size += 1
    spoiled(root, kept, "bytes")


def test_a_link_is_not_read(root, kept, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"weights" * 1000)
    file = kept.folder / "files" / "model.npz"
    file.unlink()
    file.symlink_to(secret)
    with pytest.raises(OSError, match="symbolic"):
        Local(root).verify(JOB, kept.sha256, kept.size)


def test_a_manifest_that_leaves_its_folder_is_not_followed(root, tmp_path):
    (tmp_path / "secret").write_bytes(b"s")
    kept = Kept(root, {"a": b"s"})
    row = [["../../../../secret", 1, hashlib.sha256(b"s").hexdigest()]]
    manifest = json.dumps(row).encode()
    sha256 = hashlib.sha256(manifest).digest()
    kept.folder.rename(root / JOB / sha256.hex())
    (root / JOB / sha256.hex() / "manifest.json").write_bytes(manifest)
    with pytest.raises(Spoiled, match="leaves its folder"):
        Local(root).verify(JOB, sha256, 1)


def test_files_go_and_the_neighbours_stay(root, kept):
    other = Kept(root, {"a": b"other"})
    assert Local(root).delete(JOB, kept.sha256, FOREVER_US)
    assert sorted((root / JOB).iterdir()) == [other.folder]
    assert Local(root).delete(JOB, kept.sha256, FOREVER_US)


def test_what_is_not_there_is_deleted(tmp_path):
    assert Local(tmp_path / "never").delete(JOB, bytes(32), FOREVER_US)


def test_content_that_was_taken_again_stays(root, kept):
    recorded_us = time.time_ns() // 1000 + 1
    os.utime(kept.folder, ns=(0, (recorded_us + 5) * 1000))
    assert not Local(root).delete(JOB, kept.sha256, recorded_us)
    Local(root).verify(JOB, kept.sha256, kept.size)


@pytest.mark.parametrize("cut_off", [".gone-", ".dead-"])
def test_a_deletion_that_was_cut_off_is_finished(root, kept, cut_off):
    kept.folder.rename(root / JOB / (cut_off + kept.sha256.hex()))
    assert Local(root).delete(JOB, kept.sha256, FOREVER_US)
    assert list((root / JOB).iterdir()) == []


@pytest.mark.parametrize("job", ["..", ".", "", "a/../..", "/etc", "../other", "a\0b", "x" * 200])
def test_no_name_leaves_the_root(root, job):
    with pytest.raises(Spoiled):
        Local(root).delete(job, bytes(32), FOREVER_US)
    with pytest.raises(Spoiled):
        Local(root).verify(job, bytes(32), 0)


def test_a_linked_job_folder_is_not_entered(root, kept, tmp_path):
    outside = tmp_path / "outside"
    (root / JOB).rename(outside)
    (root / JOB).symlink_to(outside)
    with pytest.raises(OSError, match=r"Not a directory|symbolic"):
        Local(root).delete(JOB, kept.sha256, FOREVER_US)
    assert (outside / kept.sha256.hex() / "manifest.json").exists()


def test_a_linked_checkpoint_is_not_deleted(root, kept, tmp_path):
    outside = tmp_path / "outside"
    kept.folder.rename(outside)
    kept.folder.symlink_to(outside)
    with pytest.raises(Spoiled, match="no folder"):
        Local(root).delete(JOB, kept.sha256, FOREVER_US)
    assert (outside / "manifest.json").exists()


def test_links_inside_go_and_their_targets_stay(root, kept, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"x")
    (kept.folder / "files" / "link").symlink_to(outside)
    (kept.folder / "files" / "file").symlink_to(outside / "file")
    assert Local(root).delete(JOB, kept.sha256, FOREVER_US)
    assert (outside / "file").read_bytes() == b"x"
