"""`loomos replay | rebuild`: the past, and the read models, folded from the log once more.

1. Both read the log with the services' own credentials: they are for who holds the home.
2. `replay` changes nothing. `rebuild` compares; only `--swap` puts the new tables in place.
"""

import asyncio
import importlib
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.decider import Position
from loom.kit.config import Settings
from loom.kit.contract import Service
from loomos.cli.door import Door, segment
from loomos.cli.show import Json, err, out, print_json, short, table
from loomos.client.profile import Refused

if TYPE_CHECKING:
    # Slow to import: the functions that need them do so, for `loomos` starts with this module.
    from loom.kit.folder import Folder
    from loom.kit.rebuild import Compared

__all__ = ["add_to"]

TOLD = ("scheduler", "resource-manager", "security")


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    app.command()(replay)
    app.command("rebuild")(rebuild_models)


def replay(
    to: Annotated[
        str,
        typer.Option(
            help="An event's id, a time: 2026-11-22T10:00:00Z, or a place: loomos.scheduler:0:17."
        ),
    ],
    services: Annotated[
        list[str] | None, typer.Option("--service", help="Only this service; again for each.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show jobs, nodes and quotas as they were at an event. Example: loomos replay --to EVENT"""
    until_us = time_of(to)
    for name in services or TOLD:
        for partition, folder, offset in asyncio.run(folded(known(name), until_us)):
            place = Position(f"loomos.{name}", partition, offset)
            for shard, state in sorted(folder.states.items()):
                tell(name, place, shard, state, as_json)


def time_of(moment: str) -> int:
    """The time that a moment comes down to."""
    from loom.kit.cut import moment_of
    from loom.kit.errors import Failure

    try:
        found = moment_of(moment, "--to")
    except Failure as failure:
        raise Refused(0, failure.code, failure.message) from failure
    match found:
        case int():
            return found
        case str():
            return decided_at(found)
    return decided_there(found)


def decided_at(event_id: str) -> int:
    """When an event was decided."""
    with Door.open() as door:
        organisation = segment(door.organisation_id or "platform")
        path = f"/api/v1/organisations/{organisation}/audit/events/{segment(event_id)}"
        return int(door.call("GET", path)["at_us"])


def decided_there(place: Position) -> int:
    """When the event at a place was decided, as the log itself says."""
    from loom.kit.replay import time_at

    name = place.topic.removeprefix("loomos.")
    settings = Settings.load(known(name).name)
    if place.partition < settings.partitions and (found := asyncio.run(time_at(settings, place))):
        return found
    told = f"--to: no event stands at or before {place.topic}:{place.partition}:{place.offset}"
    raise Refused(0, "NOT_FOUND", told)


async def folded(service: Service, until_us: int) -> "list[tuple[int, Folder, int]]":
    """Each partition's states at that time, and the offset of the last record folded."""
    from loom.kit.replay import fold_until

    settings = Settings.load(service.name)
    return [
        (partition, *await fold_until(service, settings, partition, until_us))
        for partition in range(settings.partitions)
    ]


def tell(name: str, place: Position, shard: str, state: Any, as_json: bool) -> None:
    """One shard's state then."""
    from loom.kit.replay import shown, state_digest

    if as_json:
        answer = {"service": name, "shard": shard, "digest": state_digest(state)}
        at = {"topic": place.topic, "partition": place.partition, "offset": place.offset}
        print_json(answer | {"position": at, "state": shown(state)})
        return
    digest = state_digest(state)[:16]
    told = f"{place.topic}/{place.partition}@{place.offset} shard {shard}, digest {digest}…"
    match name:
        case "scheduler" if state.jobs:
            out.print(f"\n[bold]jobs[/bold] [dim]{told}[/dim]")
            table(("job", "status", "run", "node", "priority"), map(job_row, by_id(state.jobs)), "")
        case "resource-manager" if state.nodes:
            out.print(f"\n[bold]nodes[/bold] [dim]{told}[/dim]")
            table(("node", "name", "ready", "held by"), map(node_row, by_id(state.nodes)), "")
        case "security" if state.quotas:
            out.print(f"\n[bold]quotas[/bold] [dim]{told}[/dim]")
            table(("subject", "limits"), map(quota_row, by_id(state.quotas)), "")
        case _:
            out.print(f"\n[bold]{name}[/bold] [dim]{told}[/dim]")


def by_id(things: dict[str, Any]) -> list[tuple[str, Any]]:
    """Things with their ids, sorted."""
    return sorted(things.items())


def job_row(item: tuple[str, Any]) -> tuple[Any, ...]:
    """A job of the scheduler's state."""
    from loom.v1 import scheduler_pb2

    job_id, job = item
    status = short(scheduler_pb2.JobStatus.Name(job.status), "JOB_STATUS_")
    return job_id, status, job.run, job.node_id, job.priority


def node_row(item: tuple[str, Any]) -> tuple[Any, ...]:
    """A node of the resource manager's state."""
    node_id, node = item
    held = ", ".join(f"{one.job_id} run {one.run}" for _, one in by_id(node.allocations))
    return node_id, node.registered.hostname, "yes" if node.ready else "no", held


def quota_row(item: tuple[str, Any]) -> tuple[Any, ...]:
    """A quota of security's state."""
    from loom.v1 import security_pb2

    subject, limits = item
    kinds = ((security_pb2.QuotaKind.Name(one.kind), one.limit) for one in limits)
    return subject, ", ".join(f"{short(kind, 'QUOTA_KIND_').lower()} {n}" for kind, n in kinds)


def rebuild_models(
    services: Annotated[
        list[str] | None, typer.Argument(help="Only these services; else all.")
    ] = None,
    swap: Annotated[
        bool, typer.Option("--swap", help="Put the new tables in place where nothing differs.")
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="Put them in place also where they differ: after damage, or new code."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Make the read models anew from the log and compare; exit status 1 where one differs."""
    from loom.kit.rebuild import Mismatch

    rows: list[tuple[str, Compared]] = []
    for name in services or installed():
        try:
            rows += [(name, one) for one in asyncio.run(rebuilt(known(name), swap, replace))]
        except Mismatch as error:
            raise Refused(0, "FAILED_PRECONDITION", f"{error}: nothing was swapped") from error
    differ = [one for _, one in rows if one.live != one.rebuilt]
    if as_json:
        for name, one in rows:
            print_json({"service": name} | one._asdict() | {"same": one.live == one.rebuilt})
    else:
        table(
            ("service", "table", "rows", "digest", "rebuilt from the log"),
            (
                (
                    name,
                    one.table,
                    one.rows,
                    one.live[:16],
                    "same" if one not in differ else "differs",
                )
                for name, one in rows
            ),
            "no read model",
        )
    if differ and replace:
        err.print(f"{len(differ)} tables differed from the log and were replaced")
    elif differ:
        err.print(f"{len(differ)} tables differ from the log", style="red")
        raise typer.Exit(1)


async def rebuilt(service: Service, swap: bool, replace: bool) -> "list[Compared]":
    """Each table's digest now and as the log gives it."""
    from loom.kit.rebuild import rebuild
    from loom.store import Store

    settings = Settings.load(service.name)
    store = Store(settings.postgres, service.name.replace("-", "_"), connections_max=2)
    await store.open()
    try:
        return await rebuild(service, settings, store, swap, replace)
    finally:
        await store.close()


def installed() -> list[str]:
    """The deciding services of this installation."""
    from loom.log.topics import DECIDING
    from loomos.embedded.services import found

    return [one for one in DECIDING if one in found()]


def known(name: str) -> Service:
    """A deciding service of this installation; Refused for another name."""
    from loomos.embedded.services import module

    if name not in (names := installed()):
        told = f"no service {name!r}: there are {', '.join(names)}"
        raise Refused(0, "INVALID_ARGUMENT", told)
    return importlib.import_module(module(name)).SERVICE
