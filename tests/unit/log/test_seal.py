"""Sealed values, the keystore and the keyring, without any service."""

import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.log import providers
from loom.log.keyring import Keyring
from loom.log.keystore import Directory, Unusable, key_id
from loom.log.providers import environment, file
from loom.log.seal import Algorithm, DataKey, Spot, Unreadable, new_secret, seal, unseal
from loom.personal import key_of

AES = DataKey("0" * 24 + ".1", "acme", "p-7", Algorithm.AES_256_GCM, new_secret())
SPOT = Spot("event-1", "user_name")


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return opened(tmp_path)


def opened(path: Path) -> Keyring:
    """A process's own view of a keystore."""
    file.found(path / "kek")
    return Keyring(Directory(path / "data"), providers.named("file", {}, path))


@given(st.binary(max_size=200), st.sampled_from(Algorithm))
def test_what_is_sealed_opens_at_its_own_place(value: bytes, algorithm: Algorithm) -> None:
    key = AES._replace(algorithm=algorithm)
    text = seal(key, SPOT, value)
    assert key_of(text) == key.id
    assert unseal(key, SPOT, text) == value


@pytest.mark.parametrize(
    "key, spot",
    [
        (AES, Spot("event-2", "user_name")),
        (AES, Spot("event-1", "reason")),
        (AES, Spot("event-1u", "ser_name")),
        (AES._replace(subject="p-8"), SPOT),
        (AES._replace(organisation="umbra"), SPOT),
        (AES._replace(secret=new_secret()), SPOT),
        (AES._replace(algorithm=Algorithm.CHACHA20_POLY1305), SPOT),
    ],
)
def test_it_opens_nowhere_else(key: DataKey, spot: Spot) -> None:
    text = seal(AES, SPOT, b"ada@example.org")
    with pytest.raises(Unreadable):
        unseal(key, spot, text)


@given(st.data())
def test_a_changed_character_is_found(data: st.DataObject) -> None:
    text = seal(AES, SPOT, b"ada")
    head = len("sealed:1:") + len(AES.id) + 1
    # The last character may carry bits that belong to no byte.
    at = data.draw(st.integers(head, len(text) - 2))
    other = data.draw(st.sampled_from("ABCabc019-_").filter(lambda one: one != text[at]))
    with pytest.raises(Unreadable):
        unseal(AES, SPOT, text[:at] + other + text[at + 1 :])


def test_the_length_does_not_tell_yes_from_no() -> None:
    assert len(seal(AES, SPOT, b"yes")) == len(seal(AES, SPOT, b"no"))
    assert len({seal(AES, SPOT, b"yes") for _ in range(100)}) == 100


def test_keys_live_in_files_of_their_owner_and_are_wrapped(
    keyring: Keyring, tmp_path: Path
) -> None:
    key = keyring.newest("acme", "p-7")
    (path,) = (tmp_path / "data").glob("*/*.json")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
    assert key.secret not in path.read_bytes() and key.secret.hex() not in path.read_text()
    assert "secret" in path.read_text() and "secret" not in repr(key)
    again = opened(tmp_path)
    assert again.newest("acme", "p-7") == key
    assert again.get(key.id) == key


def test_rotation_makes_a_key_for_what_is_new_and_keeps_the_old(
    keyring: Keyring, tmp_path: Path
) -> None:
    other = opened(tmp_path)
    first = keyring.newest("acme", "p-7")
    assert other.newest("acme", "p-7") == first
    digest = keyring.digest("acme", "p-7", "command", b"content")
    made = keyring.rotate("acme", "p-7", 1)
    assert made is not None and made.number == 2
    assert keyring.rotate("acme", "p-7", 1) == made, "an order that is repeated makes no third key"
    assert other.newest("acme", "p-7").id == made.id, "another process takes the new key at once"
    assert other.get(first.id) == first
    assert other.digest("acme", "p-7", "command", b"content") == digest


def test_destroying_ends_the_use_in_every_process_and_for_ever(
    keyring: Keyring, tmp_path: Path
) -> None:
    other = opened(tmp_path)
    key = keyring.newest("acme", "p-7")
    assert other.get(key.id) == key
    digest = other.digest("acme", "p-7", "command", b"yes")
    (path,) = (tmp_path / "data").glob("*/*.json")
    copy = path.read_bytes()
    held = path.open("rb")
    (tombstone,) = keyring.destroy("acme", "p-7", "event-9")
    assert held.read() == bytes(len(copy)), "what still holds the file open reads zeros"
    held.close()
    assert (tombstone.id, tombstone.cause) == (key.id, "event-9")
    assert keyring.get(key.id) is None and other.get(key.id) is None
    path.write_bytes(copy)
    assert opened(tmp_path).get(key.id) is None, "a copy beside its tombstone is dead"
    fresh = other.newest("acme", "p-7")
    assert fresh.id == key_id("acme", "p-7", 2) and fresh.secret != key.secret
    assert other.digest("acme", "p-7", "command", b"yes") != digest


def test_a_restored_copy_without_tombstones_dies_again(keyring: Keyring, tmp_path: Path) -> None:
    key = keyring.newest("acme", "p-7")
    (path,) = (tmp_path / "data").glob("*/*.json")
    copy = path.read_bytes()
    keyring.destroy("acme", "p-7", "event-9")
    (path.with_name(f"{key.id}.dead")).unlink()
    path.write_bytes(copy)
    restored = opened(tmp_path)
    assert restored.get(key.id) == key
    assert restored.destroy_again(key.id, "event-9", 5)
    assert not restored.destroy_again(key.id, "event-9", 5)
    assert restored.get(key.id) is None and not path.exists()


def test_two_processes_that_make_the_first_key_agree(tmp_path: Path) -> None:
    rings = [opened(tmp_path) for _ in range(3)]
    assert len({ring.newest("acme", "p-7").secret for ring in rings}) == 1


def test_rewrapping_moves_every_key_and_changes_none(keyring: Keyring, tmp_path: Path) -> None:
    keys = [keyring.newest("acme", f"p-{number}") for number in range(5)]
    assert keyring.provider.current == "kek-000001"
    assert keyring.provider.renew() == "kek-000002"
    assert keyring.rewrap() == 5 and keyring.rewrap() == 0
    (tmp_path / "kek" / "kek-000001.key").unlink()
    again = opened(tmp_path)
    assert [again.get(key.id) for key in keys] == keys
    assert {key.kek_id for key in again.store.living()} == {"kek-000002"}


def test_a_key_file_under_another_name_does_not_open(keyring: Keyring, tmp_path: Path) -> None:
    keyring.newest("acme", "p-7")
    other = keyring.newest("acme", "p-8")
    (path,) = [
        one for one in (tmp_path / "data").glob("*/*.json") if one.name != f"{other.id}.json"
    ]
    stolen = path.read_text().replace('"p-7"', '"p-8"').replace(path.stem, other.id)
    next((tmp_path / "data").glob(f"*/{other.id}.json")).write_text(stolen)
    with pytest.raises(Unusable, match="not the key of its subject"):
        opened(tmp_path).newest("acme", "p-8")


def test_there_is_no_default_key(tmp_path: Path) -> None:
    with pytest.raises(Unusable, match="no key-encryption key"):
        providers.named("file", {}, tmp_path)
    with pytest.raises(Unusable, match="LOOMOS_KEK is missing"):
        providers.named("environment", {}, tmp_path)
    with pytest.raises(Unusable, match="want one of environment, file, pkcs11, vault"):
        providers.named("nothing", {}, tmp_path)


def test_a_key_that_others_may_read_is_refused(keyring: Keyring, tmp_path: Path) -> None:
    (tmp_path / "kek" / "kek-000001.key").chmod(0o644)
    with pytest.raises(Unusable, match="read by others"):
        keyring.newest("acme", "p-7")


def test_keys_from_the_environment(tmp_path: Path) -> None:
    import base64

    old, new = (base64.b64encode(os.urandom(32)).decode() for _ in range(2))
    ring = Keyring(Directory(tmp_path), environment.open({"LOOMOS_KEK": f"old:{old}"}, tmp_path))
    key = ring.newest("acme", "p-7")
    both = environment.open({"LOOMOS_KEK": f"new:{new},old:{old}"}, tmp_path)
    assert Keyring(Directory(tmp_path), both).rewrap() == 1
    only = environment.open({"LOOMOS_KEK": f"new:{new}"}, tmp_path)
    assert Keyring(Directory(tmp_path), only).get(key.id) == key
    for bad in ("new", f"new:{new[:-8]}", f"new:{base64.b64encode(bytes(32)).decode()}", "a b:c"):
        with pytest.raises(Unusable) as told:
            environment.open({"LOOMOS_KEK": bad}, tmp_path)
        assert new[:10] not in str(told.value)
