"""Wires the node agent: identity, GPUs, runs, the session, telemetry.

Beside the settings of every process: LOOMOS_NODE_NAME (else the host's name), LOOMOS_NODE_DIR
(`nodes/<name>` of the home), LOOMOS_CHECKPOINT_STORE (`artifacts` of the home; the same for all
nodes), LOOMOS_WORK (work folders, where mounts are not allowed), LOOMOS_NVML_SCENARIO (simulated
GPUs), LOOMOS_NODE_CPU_MILLI and LOOMOS_NODE_MEMORY_BYTES (else what the machine has),
LOOMOS_NODE_LABELS (`name=value,…`), LOOMOS_LEASE_SECONDS, LOOMOS_RESOURCE_MANAGER and
LOOMOS_SECURITY (`host:port`, else from the home's state file).
"""

import asyncio
import fcntl
import json
import os
import re
import shutil
import signal
import socket
import time
from dataclasses import asdict, replace
from importlib.metadata import version
from pathlib import Path
from typing import TextIO

import psutil

from loom.kit import observe
from loom.kit.client import Client
from loom.kit.config import InvalidSetting, Settings, supervised, whole
from loom.kit.errors import Failure
from loom.log.publisher import Publisher
from loom.v1 import common_pb2 as common
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import security_pb2 as security
from loomos.node_agent import identity
from loomos.node_agent.gpu import Gpus
from loomos.node_agent.outbox import Outbox
from loomos.node_agent.runs import Runs
from loomos.node_agent.session import Session
from loomos.node_agent.workplace import Place

NAME = re.compile(r"[a-z0-9]([a-z0-9._-]{0,62})")
SAMPLE_SECONDS = 2.0
RENEWAL_LOOK_SECONDS = 300.0
REGISTER_PAUSE_SECONDS = 1.0
LEASE_SECONDS = 20


async def run(settings: Settings) -> None:
    """Runs the agent until SIGTERM or SIGINT; the jobs go on without it."""
    observe.start(settings)
    name = node_name(settings)
    folder = node_folder(settings, name)
    lock = hold(folder)
    node_id = identity.node_id(settings.tls_certificate)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    client = Client(settings, lambda service, _: resolve(settings, service))
    gpus = await asyncio.to_thread(open_gpus, settings)
    outbox = Outbox()
    runs = Runs(place(settings, folder), outbox)
    runs.adopt()
    publisher = Publisher(kafka(settings), f"loomos-{node_id}")
    await publisher.start()
    try:
        async with asyncio.TaskGroup() as group:
            work = [
                group.create_task(serve(settings, client, runs, outbox, gpus, node_id, name)),
                group.create_task(publish(gpus, publisher, node_id)),
                group.create_task(renew(settings, client, node_id, name)),
            ]
            await stopping.wait()
            for task in work:
                task.cancel()
    finally:
        await runs.close()
        await publisher.stop()
        await client.close()
        lock.close()


async def serve(
    settings: Settings,
    client: Client,
    runs: Runs,
    outbox: Outbox,
    gpus: Gpus,
    node_id: str,
    name: str,
) -> None:
    """Registers the node and holds its session."""
    request = registration(settings, gpus, node_id, name)
    log = observe.logger("node-agent")
    while True:
        try:
            await client.tell(request)
            break
        except Failure as failure:
            # Others may be starting too; a refusal for good is worth repeating all the same,
            # because what it complains about can be put right without a restart here.
            log.warning("not registered yet", code=failure.code, error=str(failure))
            await asyncio.sleep(REGISTER_PAUSE_SECONDS)
    log.info("registered", node_id=node_id, gpus=len(gpus.inventory))
    await Session(client, settings.cluster, runs, outbox).hold()


async def publish(gpus: Gpus, publisher: Publisher, node_id: str) -> None:
    """Publishes a sample of every GPU, again and again."""
    while gpus.inventory:
        for sample in await asyncio.to_thread(gpus.sample):
            record = {"node_id": node_id, "at_us": time.time_ns() // 1000, **asdict(sample)}
            publisher.publish(node_id, json.dumps(record).encode())
        await asyncio.sleep(SAMPLE_SECONDS)


async def renew(settings: Settings, client: Client, node_id: str, name: str) -> None:
    """Renews the certificate from the half of its life on."""
    log = observe.logger("node-agent")
    while True:
        if identity.renewal_due(settings.tls_certificate):
            key_pem, csr_pem = identity.signing_request(name)
            request = security.RenewNodeCertificateRequest(
                node_id=node_id, organisation_id="platform", csr_pem=csr_pem.decode()
            )
            try:
                given = await client.tell(request)
                assert isinstance(given, security.NodeCertificate)
                identity.store(
                    settings.credentials, key_pem, given.certificate_pem, given.authority_pem
                )
                log.info("certificate renewed", expires_at_us=given.expires_at_us)
            except Failure as failure:
                log.warning("certificate not renewed", code=failure.code, error=str(failure))
        await asyncio.sleep(RENEWAL_LOOK_SECONDS)


def registration(settings: Settings, gpus: Gpus, node_id: str, name: str) -> rm.RegisterNodeRequest:
    """What this node has, in the words of the contract."""
    given = settings.environ
    cpus = len(os.sched_getaffinity(0)) * 1000
    memory_bytes = psutil.virtual_memory().total
    if "LOOMOS_NODE_CPU_MILLI" in given:
        cpus = whole("LOOMOS_NODE_CPU_MILLI", given, 0, 1, 999_999_999)
    if "LOOMOS_NODE_MEMORY_BYTES" in given:
        memory_bytes = whole("LOOMOS_NODE_MEMORY_BYTES", given, 0, 1, 10**15 - 1)
    request = rm.RegisterNodeRequest(
        node_id=node_id,
        hostname=name,
        capacity=common.Resources(
            cpu_milli=cpus,
            memory_bytes=memory_bytes,
            gpu_milli=1000 * len(gpus.inventory),
            storage_bytes=shutil.disk_usage(settings.home).free,
        ),
        labels=labels(given.get("LOOMOS_NODE_LABELS", "")),
        lease_seconds=whole("LOOMOS_LEASE_SECONDS", given, LEASE_SECONDS, 3, 600),
        agent_version=version("loomos"),
    )
    for index, gpu in enumerate(gpus.inventory):
        request.gpus.add(
            uuid=gpu.uuid,
            index=index,
            model=gpu.model,
            memory_bytes=gpu.memory_bytes,
            compute_capability=gpu.compute_capability,
            driver_version=gpus.driver,
        )
    return request


def labels(text: str) -> dict[str, str]:
    """Labels written as `name=value,name=value`."""
    found: dict[str, str] = {}
    for pair in filter(None, text.split(",")):
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise InvalidSetting(f"LOOMOS_NODE_LABELS holds {pair!r}: want name=value")
        found[name] = value
    return found


def node_name(settings: Settings) -> str:
    """What people call this node."""
    name = settings.environ.get("LOOMOS_NODE_NAME") or socket.gethostname().lower()
    if not NAME.fullmatch(name):
        raise InvalidSetting(f"LOOMOS_NODE_NAME is {name!r}: want the form {NAME.pattern}")
    return name


def node_folder(settings: Settings, name: str) -> Path:
    """Where this node's state lies; only its own user may enter."""
    given = settings.environ.get("LOOMOS_NODE_DIR")
    folder = Path(given) if given else settings.home / "nodes" / name
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder.resolve()


def hold(folder: Path) -> TextIO:
    """Takes the node's lock, so that two agents never run the same jobs."""
    lock = (folder / "agent.lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise InvalidSetting(
            f"LOOMOS_NODE_DIR: another agent already runs on {folder}; stop it first"
        ) from error
    return lock


def place(settings: Settings, folder: Path) -> Place:
    """The folders that jobs and artifacts live in."""
    given = settings.environ
    store = given.get("LOOMOS_CHECKPOINT_STORE")
    work = given.get("LOOMOS_WORK")
    return Place(
        folder=folder,
        store=Path(store) if store else settings.home / "artifacts",
        hide=settings.home,
        work=Path(work) if work else None,
    )


def open_gpus(settings: Settings) -> Gpus:
    """The node's GPUs, simulated ones where a scenario is given."""
    scenario = settings.environ.get("LOOMOS_NVML_SCENARIO")
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Gpus(Path(scenario) if scenario else None, Path(base) / "loomos")


def kafka(settings: Settings) -> Settings:
    """Settings for the listener that node agents use: their certificate is their name."""
    bootstrap = settings.environ.get("LOOMOS_KAFKA")
    if not bootstrap:
        state = supervised(settings.home).get("kafka") or {}
        bootstrap = str(state.get("ssl_bootstrap", ""))
    return replace(settings, kafka=bootstrap, kafka_security="SSL")


async def resolve(settings: Settings, service: str) -> str:
    """Where a service listens: from its variable, else from the supervisor's state file."""
    variable = f"LOOMOS_{service.upper().replace('-', '_')}"
    if variable in settings.environ:
        return settings.environ[variable]
    services = supervised(settings.home).get("services") or {}
    return str((services.get(service) or {}).get("address", ""))
