"""`loomos dead-letters`: records that a service could not project, and what waits behind them.

Reads each service's own table with that service's credentials: it is for who holds the home.
"""

import asyncio
from typing import Annotated, Any

import typer

from loom.kit.config import Settings
from loom.kit.projector import Projector
from loom.log.topics import DECIDING
from loom.store import Store
from loomos.cli.replay import known
from loomos.cli.show import Json, err, listing
from loomos.client.profile import Refused
from loomos.embedded.services import found

__all__ = ["add_to"]

WAITING = """
SELECT projection, topic, partition, record_offset, stream, type, reason, attempts,
       to_char(parked_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"') AS parked_at
FROM dead_letters ORDER BY topic, partition, record_offset
"""

PLACES = "SELECT DISTINCT projection, topic, partition FROM dead_letters ORDER BY topic, partition"


def add_to(app: typer.Typer) -> None:
    """Add this part's command."""
    app.command("dead-letters")(dead_letters)


def dead_letters(
    service: Annotated[str, typer.Argument(help="Only this service; else all.")] = "",
    retry: Annotated[
        bool, typer.Option("--retry", help="Project them again first, after the cause is mended.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the records that wait, with the reason; exit status 1 where any does.

    Example: loomos dead-letters scheduler --retry
    """
    names = [name for name in DECIDING if name in found()]
    if service and service not in names:
        told = f"no service {service!r}: there are {', '.join(names)}"
        raise Refused(0, "INVALID_ARGUMENT", told)
    chosen = [service] if service else names
    if retry:
        for name in chosen:
            asyncio.run(redeem(name))
    waiting = [{"service": name} | one for name in chosen for one in asyncio.run(letters_of(name))]
    rows = (
        (
            one["service"],
            f"{one['topic']}/{one['partition']}@{one['record_offset']}",
            one["type"],
            one["stream"],
            one["attempts"],
            one["parked_at"],
            one["reason"],
        )
        for one in waiting
    )
    columns = ("service", "record", "type", "stream", "tries", "since", "reason")
    listing(waiting, as_json, columns, rows, "no dead letter")
    if waiting:
        raise typer.Exit(1)


async def redeem(service: str) -> None:
    """Take back what one service parked, partition by partition."""
    settings = Settings.load(service)
    if not settings.postgres:
        return
    project = known(service).project
    store = Store(settings.postgres, service.replace("-", "_"), connections_max=2)
    await store.open()
    try:
        async with store.connection() as connection:
            places = await (await connection.execute(PLACES)).fetchall()
        for place in places:
            projector = Projector(
                store,
                settings,
                place["topic"],
                place["partition"],
                project,
                place["projection"],
            )
            count = await projector.redeem()
            err.print(f"{service}: {count} records of {place['topic']} taken back")
    finally:
        await store.close()


async def letters_of(service: str) -> list[dict[str, Any]]:
    """What waits in one service's table; nothing where the service never ran here."""
    settings = Settings.load(service)
    if not settings.postgres:
        return []
    store = Store(settings.postgres, service.replace("-", "_"), connections_max=1)
    await store.open()
    try:
        async with store.connection() as connection:
            return await (await connection.execute(WAITING)).fetchall()
    finally:
        await store.close()
