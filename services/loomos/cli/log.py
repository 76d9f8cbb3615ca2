"""`loomos log`: the operator's way on after Kafka lost records.

1. `status` compares each partition with its signed tree and changes nothing.
2. `restore` goes by what the log and the tree say, asks before it acts, and works only while the
   home's supervisor does not: it starts Kafka and Postgres alone, claims the partition, and moves
   the positions that stand beyond the loss.
"""

import asyncio
import contextlib
import getpass
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.kit.config import Settings
from loomos.cli.archive import depot_in
from loomos.cli.audit_verify import fail
from loomos.cli.show import Json, err, out, print_json, table

if TYPE_CHECKING:
    # Slow to import, and no other command of `loomos` needs it.
    from loom.log.restore import Loss
    from loom.log.topics import Bus
    from loom.log.verify import Sealed

__all__ = ["app"]

app = typer.Typer(help="The log itself: what it lost, and how it goes on.", no_args_is_help=True)


@app.command()
def status(as_json: Json = False) -> None:
    """Compare every partition with what was signed of it; exit status 1 where records are lost.

    Example: loomos log status
    """
    from loom.log.reader import LogAway, LogDiverged

    settings = Settings.load("loomdb")
    if not settings.kafka:
        fail("no broker is known: run `loomos up`, or restore right away")
    try:
        rows = asyncio.run(measured(settings))
    except (LogAway, LogDiverged) as error:
        fail(str(error))
    for row in rows if as_json else ():
        print_json(row)
    if not as_json:
        heads = ("log", "incarnation", "signed", "shared", "lost")
        table(heads, (tuple(row.values()) for row in rows), "no tree is signed yet")
    if any(row["lost"] for row in rows):
        raise typer.Exit(1)


@app.command()
def restore(
    topic: Annotated[str, typer.Option(help="The topic, e.g. loomos.scheduler.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the log for ever.")],
    partition: Annotated[int, typer.Option(help="The partition.")] = 0,
    from_archive: Annotated[
        bool, typer.Option("--from-archive", help="Fill an empty partition from the archive first.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
) -> None:
    """Have a log that lost signed records go on: a new incarnation from what is still shared.

    Stop the platform before (`loomos down`).
    Example: loomos log restore --topic loomos.scheduler --reason "disk 2 failed, case 114"
    """
    from loom.kit.errors import Failure
    from loom.log.parquet import DamagedArchive
    from loom.log.reader import LogAway, LogDiverged
    from loom.log.restore import NothingLost, measure
    from loom.log.writer import Doubt

    with stores_alone() as bus:
        settings = Settings.load("loomdb")
        sealed = tree_of(settings, topic, partition)
        try:
            if from_archive:
                filled = asyncio.run(refilled(settings, bus, sealed))
                err.print(f"{filled} records are back, as they were archived", markup=False)
            loss = asyncio.run(measure(settings, sealed))
        except (NothingLost, LogAway, LogDiverged, DamagedArchive, ValueError) as error:
            fail(str(error))
        err.print(told(sealed, loss), markup=False)
        if not yes:
            typer.confirm("Go on without them?", abort=True)
        try:
            asyncio.run(restored(settings, sealed, loss, reason, as_json))
        except (Doubt, LogAway, LogDiverged, Failure, OSError) as error:
            fail(f"not restored: {error}; run it again")


@contextlib.contextmanager
def stores_alone() -> "Iterator[Bus]":
    """This home's Kafka and Postgres without any service; the way into Kafka with every right."""
    from loomos.embedded.home import Home
    from loomos.embedded.process import Unusable
    from loomos.embedded.services import ALL
    from loomos.embedded.stores import Stores

    settings = Settings.load("loomdb")
    home = Home.open(settings.home)
    lock = home.lock()
    if lock is None:
        fail("LoomOS runs in this home: stop it first with `loomos down`")
    with lock:
        stores = Stores(home, dict(settings.environ))
        try:
            stores.launch(lambda line: err.print(line, markup=False))
            stores.wait()
            stores.provision(ALL)
            home.write_state({"version": 1, **stores.state()})
            yield stores.administrator()
        except Unusable as error:
            fail(str(error))
        finally:
            stores.stop()
            home.clear_state()


async def refilled(settings: Settings, bus: "Bus", sealed: "Sealed") -> int:
    """Write what is archived of a partition back into Kafka, each object verified before."""
    from loom.log.archive import fetch, manifests, newest
    from loom.log.archiver import check
    from loom.log.parquet import decoded
    from loom.log.restore import refill
    from loom.log.topics import TOPICS

    depot, cache = depot_in(settings), settings.home / "archive-cache"
    chain = newest(manifests(depot, sealed.topic, sealed.partition))
    for manifest in chain:
        check(depot, cache, manifest, sealed)
    records = (one for manifest in chain for one in decoded(fetch(depot, manifest, cache)))
    topic = next(one for one in TOPICS if one.name == sealed.topic)
    return await refill(bus, topic, sealed.partition, records)


def told(sealed: "Sealed", loss: "Loss") -> str:
    """What is lost, in words."""
    return (
        f"{sealed.topic}/{sealed.partition}: of {loss.signed_size} signed records the log shares "
        f"the first {loss.shared_size}; offsets {loss.lost_from} to {loss.lost_through} are lost "
        f"as they were signed, the log ends at {loss.end}"
    )


def tree_of(settings: Settings, topic: str, partition: int) -> "Sealed":
    """The newest signed tree of a partition."""
    from loom.log.archiver import signed_tree
    from loom.log.note import InvalidNote, Verifier
    from loom.log.tiles import DamagedTree

    try:
        verifier = Verifier.parse((settings.credentials / "notary.pub").read_text())
        sealed = signed_tree(settings.home / "trees", topic, partition, verifier)
    except (InvalidNote, DamagedTree, OSError) as error:
        fail(str(error))
    if sealed is None:
        fail(f"{topic}/{partition} has no signed tree: nothing says what it lost")
    return sealed


async def measured(settings: Settings) -> list[dict[str, Any]]:
    """Each partition's state."""
    from loom.log.note import Verifier
    from loom.log.restore import NothingLost, measure
    from loom.log.verify import open_trees

    verifier = Verifier.parse((settings.credentials / "notary.pub").read_text())
    rows = []
    for sealed in open_trees(settings.home / "trees", verifier):
        lost, shared = "", sealed.tree.size
        try:
            loss = await measure(settings, sealed)
            lost, shared = f"{loss.lost_from}–{loss.lost_through}", loss.shared_size
        except NothingLost:
            pass
        rows.append(
            {
                "log": f"{sealed.topic}/{sealed.partition}",
                "incarnation": sealed.incarnation,
                "signed": sealed.tree.size,
                "shared": shared,
                "lost": lost,
            }
        )
    return rows


async def restored(
    settings: Settings, sealed: "Sealed", loss: "Loss", reason: str, as_json: bool
) -> None:
    """Fork the tree, begin the incarnation, move the positions, rebuild what stood on the loss."""
    from loom.log.note import load_signer
    from loom.log.restore import begin, begun, fork
    from loomos.loomdb.seal import NAME

    owner = Settings.load(sealed.topic.removeprefix("loomos."))
    # What an earlier try began in the log is not begun again; its tree is made only afterwards.
    if not await begun(settings, sealed):
        await begin(owner, sealed, loss, f"operator:{getpass.getuser()}", reason)
    folder = fork(settings.home / "trees", sealed, loss, load_signer(settings.credentials, NAME))
    err.print(f"incarnation {folder.name} begins; its tree is {folder}", markup=False)
    moved = await drop_positions(sealed, loss)
    for name, projections in moved:
        err.print(f"{name}: {projections} positions stood beyond the loss", markup=False)
    if as_json:
        print_json(
            {
                "log": f"{sealed.topic}/{sealed.partition}",
                "incarnation": int(folder.name),
                "shared_size": loss.shared_size,
                "lost_from": loss.lost_from,
                "lost_through": loss.lost_through,
                "rebuilt": [name for name, _ in moved],
            }
        )
    else:
        out.print(f"{sealed.topic}/{sealed.partition} goes on: start the services", markup=False)


async def drop_positions(sealed: "Sealed", loss: "Loss") -> list[tuple[str, int]]:
    """Bring positions beyond the loss back to what is shared, and rebuild those read models."""
    import importlib

    from loom.kit.rebuild import rebuild
    from loom.log.judge import Base
    from loom.log.topics import DECIDING
    from loom.store import Store

    moved = []
    for name in DECIDING:
        settings = Settings.load(name)
        store = Store(settings.postgres, name.replace("-", "_"))
        await store.open()
        try:
            async with store.connection() as connection:
                made = await connection.execute("SELECT to_regclass('positions') AS made")
                if not any(row["made"] for row in await made.fetchall()):
                    continue
                await connection.execute("DELETE FROM snapshots")
                rows = await (
                    await connection.execute(
                        "SELECT projection, base FROM positions WHERE topic = %s "
                        "AND partition = %s FOR UPDATE",
                        (sealed.topic, sealed.partition),
                    )
                ).fetchall()
                beyond = [
                    row for row in rows if Base.parse(row["base"]).offset > loss.shared.offset
                ]
                for row in beyond:
                    await connection.execute(
                        "UPDATE positions SET base = %s, epoch = epoch + 1 WHERE projection = %s "
                        "AND topic = %s AND partition = %s",
                        (loss.shared.text(), row["projection"], sealed.topic, sealed.partition),
                    )
            if beyond:
                moved.append((name, len(beyond)))
                service = importlib.import_module(f"loomos.{name.replace('-', '_')}.main").SERVICE
                await rebuild(service, settings, store, replace=True)
        finally:
            await store.close()
    return moved
