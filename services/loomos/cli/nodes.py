"""`loomos nodes | gpus | node …`: the machines, and how one becomes a node.

1. A join token's secret is made here; the platform gets its SHA-256 only, and it works once.
2. A node's folder holds its identity, settings and jobs; `node run` needs its name only.
"""

import asyncio
import json
import os
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from loom.kit.authority import write_secret
from loom.kit.config import Settings
from loomos.cli.amounts import bytes_of, bytes_text, milli_of, milli_text, pairs_of, seconds_of
from loomos.cli.door import AsOf, Door, located, segment
from loomos.cli.session import new_secret
from loomos.cli.show import Json, done, err, listing, number, out, short
from loomos.client.profile import Refused

__all__ = ["add_to"]

node = typer.Typer(help="One machine: join it, run its agent, take it out.", no_args_is_help=True)

NodeArgument = Annotated[str, typer.Argument(help="A node's id or name.")]
Name = Annotated[str, typer.Option(help="The node's name, unique in the cluster.")]
Dir = Annotated[
    Path | None, typer.Option("--dir", help="The node's folder; else nodes/NAME of the home.")
]


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(nodes)
    app.command()(gpus)
    app.add_typer(node, name="node")


def nodes(as_of: AsOf = "", as_json: Json = False) -> None:
    """List the nodes, what they have and what is taken."""
    with Door.open(as_of=as_of) as door:
        found = door.call("GET", "/api/v1/nodes").get("nodes", [])
    rows = []
    for one in found:
        capacity, taken = one.get("capacity") or {}, one.get("allocated") or {}
        rows.append(
            (
                one["hostname"],
                short(one.get("status"), "NODE_STATUS_"),
                used(taken, capacity, "cpu_milli", milli_text),
                used(taken, capacity, "memory_bytes", bytes_text),
                used(taken, capacity, "gpu_milli", milli_text),
                one.get("allocations", 0),
                ",".join(f"{k}={v}" for k, v in sorted((one.get("labels") or {}).items())),
                one.get("reason", ""),
                one["node_id"],
            )
        )
    columns = ("node", "status", "CPU", "memory", "GPUs", "runs", "labels", "reason", "id")
    listing(
        found, as_json, columns, rows, "no node has joined: make a token with `loomos node token`"
    )


def gpus(
    of: Annotated[str, typer.Option("--node", help="Only this node's.")] = "",
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """List the GPUs."""
    with Door.open(as_of=as_of) as door:
        params = {"node_id": node_id_of(door, of)} if of else {}
        found = door.call("GET", "/api/v1/gpus", params=params).get("gpus", [])
    rows = (
        (
            one.get("hostname"),
            one["gpu"].get("index", 0),
            one["gpu"]["model"],
            bytes_text(number(one["gpu"], "memory_bytes")),
            f"cordoned: {one.get('cordon_reason')}" if one.get("cordoned") else "healthy",
            one.get("allocation_id") or ("taken" if one.get("allocated") else "free"),
            one["gpu"]["uuid"],
        )
        for one in found
    )
    columns = ("node", "index", "model", "memory", "health", "held by", "uuid")
    listing(found, as_json, columns, rows, "no GPU")


@node.command("token")
def node_token(
    cluster: Annotated[str, typer.Option(help="The cluster to join.")] = "local",
    expires: Annotated[str, typer.Option(help="When it ends unused, 24h at most.")] = "15m",
) -> None:
    """Make a one-time token with which one machine may join; it is shown this once.

    Example: loomos node join --name gpu-1 --token $(loomos node token)
    """
    secret, digest = new_secret()
    ends_at_us = time.time_ns() // 1000 + seconds_of("--expires", expires) * 1_000_000
    body = {
        "organisation_id": "platform",
        "cluster_id": cluster,
        "secret_sha256": digest,
        "expires_at_us": str(ends_at_us),
    }
    with Door.open() as door:
        answer = door.call("POST", "/api/v1/join-tokens", body)
    out.print(f"lj_{answer['id']}_{secret}", markup=False)


@node.command("join")
def node_join(
    name: Name,
    token: Annotated[str, typer.Option(help="What `loomos node token` showed.")],
    gateway: Annotated[str, typer.Option(help="https://…; else of the platform here.")] = "",
    ca: Annotated[Path | None, typer.Option(help="The CA file to trust for it.")] = None,
    folder: Dir = None,
    nvml_scenario: Annotated[
        Path | None, typer.Option(help="Simulate the GPUs that this file describes.")
    ] = None,
    cpu: Annotated[str, typer.Option(help="Cores to offer; else all.")] = "",
    memory: Annotated[str, typer.Option(help="Memory to offer; else all.")] = "",
    label: Annotated[list[str] | None, typer.Option(help="NAME=VALUE; again for each.")] = None,
) -> None:
    """Join this machine to a cluster; `loomos node run` then starts its agent.

    Example: loomos node join --name gpu-1 --token lj_…
    """
    from loomos.node_agent.join import JoinFailed, join

    given = {"LOOMOS_NODE_NAME": name}
    if nvml_scenario is not None:
        if not nvml_scenario.is_file():
            raise typer.BadParameter(f"{nvml_scenario} is no file", param_hint="--nvml-scenario")
        given["LOOMOS_NVML_SCENARIO"] = str(nvml_scenario.absolute())
    if cpu:
        given["LOOMOS_NODE_CPU_MILLI"] = str(milli_of("--cpu", cpu))
    if memory:
        given["LOOMOS_NODE_MEMORY_BYTES"] = str(bytes_of("--memory", memory))
    if label:
        labels = pairs_of("--label", label)
        given["LOOMOS_NODE_LABELS"] = ",".join(f"{key}={labels[key]}" for key in sorted(labels))
    settings = Settings.load("node-agent")
    named = {"LOOMOS_GATEWAY": gateway, "LOOMOS_CA": str(ca or "")}
    environ = dict(os.environ) | {key: value for key, value in named.items() if value}
    address, trusted = located(settings.home, environ)
    folder = folder_of(settings, name, folder)
    try:
        node_id = asyncio.run(join(address, trusted, token, name, folder / "credentials"))
    except JoinFailed as error:
        raise Refused(0, "FAILED_PRECONDITION", str(error)) from error
    write_secret(folder / "node.json", json.dumps(given, indent=1))
    out.print(node_id, markup=False)
    err.print(f"{name} has joined; start its agent: loomos node run --name {name}", markup=False)


@node.command("run")
def node_run(name: Name, folder: Dir = None) -> None:
    """Be a node's agent, in the foreground; jobs go on when it ends.

    Example: loomos node run --name gpu-1
    """
    from loomos.embedded.runner import run_service

    folder = folder_of(Settings.load("node-agent"), name, folder)
    try:
        own = json.loads((folder / "node.json").read_bytes())
    except (OSError, ValueError) as error:
        told = f"{folder} holds no node ({error}): join first with `loomos node join`"
        raise Refused(0, "FAILED_PRECONDITION", told) from error
    own |= {"LOOMOS_NODE_DIR": str(folder), "LOOMOS_CREDENTIALS": str(folder / "credentials")}
    for variable, value in own.items():
        # One given by hand wins over what was said when the node joined.
        os.environ.setdefault(variable, value)
    raise typer.Exit(run_service("node-agent"))


@node.command("cordon")
def node_cordon(
    which: NodeArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: Json = False,
) -> None:
    """Give a node nothing new; what runs goes on."""
    order(which, "cordon", {"reason": reason}, as_json)


@node.command("uncordon")
def node_uncordon(which: NodeArgument, as_json: Json = False) -> None:
    """Let a node take work again."""
    order(which, "uncordon", {}, as_json)


@node.command("drain")
def node_drain(
    which: NodeArgument,
    reason: Annotated[str, typer.Option(help="Why, for the record.")] = "",
    as_json: Json = False,
) -> None:
    """Have a node's jobs checkpoint and move elsewhere, and give it nothing new."""
    order(which, "drain", {"reason": reason}, as_json)


def order(which: str, verb: str, body: dict[str, Any], as_json: bool) -> None:
    """Tell a node something."""
    with Door.open() as door:
        node_id = node_id_of(door, which)
        answer = door.call("POST", f"/api/v1/nodes/{segment(node_id)}/{verb}", body)
    done(f"{which}: {verb} asked for", answer, as_json)


def node_id_of(door: Door, which: str) -> str:
    """A node's id, from the id itself or from its name."""
    if which.startswith("node-"):
        return which
    for one in door.call("GET", "/api/v1/nodes").get("nodes", []):
        if one["hostname"] == which:
            return one["node_id"]
    raise Refused(404, "NOT_FOUND", f"no node {which!r}: see `loomos nodes`")


def folder_of(settings: Settings, name: str, given: Path | None) -> Path:
    """Where a node's identity and jobs lie."""
    return (given or settings.home / "nodes" / name).absolute()


def used(taken: dict[str, Any], capacity: dict[str, Any], name: str, text: Any) -> str:
    """What is taken of what there is."""
    return f"{text(number(taken, name))} of {text(number(capacity, name))}"
