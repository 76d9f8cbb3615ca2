"""Snapshots of a real service's folded state: used where they fit, ignored where they do not."""

import asyncio
import hashlib
import io
import pickle
import subprocess

import pytest
from tests import callers

from loom.decider import Recorded
from loom.kit import commander as commander_module
from loom.kit import snapshot
from loom.kit.answers import Answers
from loom.kit.commander import Commander
from loom.kit.entries import Entry
from loom.kit.replay import fold_until, state_digest
from loom.log.judge import START
from loom.store import Store
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as pb
from loomos.resource_manager.main import SERVICE


@pytest.fixture
async def store(fresh_log, fresh_database, settings):
    found = Store(settings("resource-manager").postgres, "resource_manager")
    await found.open()
    await found.prepare(SERVICE.schema)
    yield found
    await found.close()


def running(settings, store):
    commander = Commander(SERVICE, settings("resource-manager"), 0, callers.Judge(), "test", store)
    return callers.running(commander)


def entry(number: int, hostname: str = "host") -> Entry:
    request = pb.RegisterNodeRequest(
        node_id="node-local-" + chr(ord("a") + number) * 20,
        hostname=hostname,
        capacity=common_pb2.Resources(cpu_milli=1000, memory_bytes=2**30),
    )
    digest = hashlib.sha256(request.SerializeToString(deterministic=True)).digest()
    command_id = f"c-{number}-{hostname}"
    return callers.entry(request, action="RegisterNode", command_id=command_id, digest=digest)


@pytest.fixture
async def stored(settings, store, monkeypatch):
    """A log of twenty nodes, and a snapshot of the first fifteen."""
    monkeypatch.setattr(commander_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(commander_module, "SNAPSHOT_RECORDS", 10)
    async with running(settings, store) as commander:
        for number in range(15):
            await commander.submit(entry(number))
        async with asyncio.timeout(20):
            while await snapshot.load(SERVICE, store, 0) is None:
                await asyncio.sleep(0.1)
        for number in range(15, 20):
            await commander.submit(entry(number))
    return store


async def tamper(store, **columns) -> None:
    async with store.connection() as connection:
        for name, value in columns.items():
            await connection.execute(f"UPDATE snapshots SET {name} = %s", (value,))


async def test_a_claim_from_a_snapshot_knows_what_a_fold_from_zero_knows(
    settings, stored, monkeypatch
):
    # A heartbeat that comes while the log is folded is known to one of them only.
    monkeypatch.setattr(commander_module, "HEARTBEAT_S", 3600)
    async with running(settings, stored) as commander:
        desk = commander.desk
        assert 0 < desk.base.offset < commander.writer.reader.next_offset
        folder, _ = await fold_until(SERVICE, settings("resource-manager"), 0)
        assert state_digest(desk.folder.states) == state_digest(folder.states)
        assert desk.folder.versions == folder.versions
        assert desk.folder.stories == folder.stories
        # Answers from before the snapshot and from after it.
        for number in (3, 17):
            answer = await commander.submit(entry(number))
            assert (answer.code, answer.version) == ("", 1)
        assert (await commander.submit(entry(3, "other"))).version == 2


async def test_a_snapshot_of_other_code_or_with_another_digest_is_ignored(stored, monkeypatch):
    assert isinstance(await snapshot.load(SERVICE, stored, 0), snapshot.Snapshot)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot, "code_digest", lambda name: "changed")
        assert await snapshot.load(SERVICE, stored, 0) is None
    await tamper(stored, digest=bytes(32))
    assert await snapshot.load(SERVICE, stored, 0) is None


class Calls:
    """Pickles as a call of something."""

    def __init__(self, what, *given):
        self.call = (what, given)

    def __reduce__(self):
        return self.call


def by_name(module: str, name: str, argument: str) -> bytes:
    """A pickle that calls `module.name(argument)`, the name looked up step by step."""
    return (
        b"\x80\x04\x8c" + bytes([len(module)]) + module.encode()
        + b"\x8c" + bytes([len(name)]) + name.encode()
        + b"\x93\x8c" + bytes([len(argument)]) + argument.encode() + b"\x85R."
    )  # fmt: skip


def hostile(script: str) -> list[bytes]:
    """Pickles that would run a script, or are none."""
    return [
        pickle.dumps(Calls(subprocess.run, [script])),
        pickle.dumps(Calls(exec, f"import os; os.system({script!r})")),
        # A class that one of our own modules happens to have imported.
        by_name("loomos.cli.platform", "subprocess.Popen", script),
        by_name("loomos.cli.platform", "Path", script),
        b"\x80\x04garbage",
        b"",
        pickle.dumps({"not": "a snapshot"}),
    ]


async def test_a_hostile_pickle_runs_nothing_and_is_ignored(settings, stored, tmp_path):
    script = tmp_path / "script"
    script.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    script.chmod(0o700)
    for state in hostile(str(script)):
        await tamper(stored, state=state, digest=hashlib.sha256(state).digest())
        assert await snapshot.load(SERVICE, stored, 0) is None
    await asyncio.sleep(0.2)
    assert not (tmp_path / "ran").exists()
    async with running(settings, stored) as commander:
        assert (await commander.submit(entry(3))).version == 1


def test_only_data_classes_of_ours_are_resolved():
    loader = snapshot.Loader(io.BytesIO(b""))
    assert loader.find_class("loom.decider", "Recorded") is Recorded
    for module, name in (
        ("loomos.cli.platform", "subprocess.Popen"),
        ("loomos.cli.platform", "Path"),
        ("loomos.embedded.process", "Unusable"),
        ("os", "system"),
        ("builtins", "eval"),
        ("loom.kit.answers", "complete"),
    ):
        with pytest.raises(pickle.UnpicklingError):
            loader.find_class(module, name)


async def test_a_large_snapshot_leaves_the_loop_its_turns():
    versions = {f"stream-{number}": number for number in range(200_000)}
    found = snapshot.Snapshot(START, {}, None, versions, {}, {}, Answers(), 7)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    await asyncio.sleep(0)
    state = await asyncio.to_thread(snapshot.pickled, found)
    counting.cancel()
    assert snapshot.Loader(io.BytesIO(state)).load().versions == versions
    assert turns > 10
