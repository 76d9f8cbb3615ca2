"""`loomos archive verify`: each archived object against the signed trees, and against what the log
says that there is.

1. It trusts the notary's public key and nothing else. An object is named by the first record that
   differs, a range that no object holds by its offsets; each is judged by itself.
2. Content that is gone was deleted by policy where an event of `loomos.loomdb` that stands in its
   signed tree allows it, and is missing where none does. These events come from the archive, and
   from the broker or from a copy of its files: without either nobody is accused.
3. Exit status: 0 all is well, 1 something is wrong, 2 some of it could not be verified.
"""

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from loom.kit.config import Settings
from loom.log.note import Verifier
from loomos.cli.audit_verify import Key, fail, public_key
from loomos.cli.show import Json, err, out, print_json, printable

if TYPE_CHECKING:
    # Slow to import, and no other command of `loomos` needs it.
    from loom.log.archive import Manifest
    from loom.log.deletions import Deletion, Deletions
    from loom.log.depot import Depot
    from loom.log.verify import Sealed

__all__ = ["add_to", "depot_in", "named"]


class Checked(NamedTuple):
    """What was found of one object, or of a stretch that no object holds."""

    object: str
    fault: str = ""
    unknown: str = ""
    """Why it cannot be told whether it is as it should be."""
    deleted: "tuple[tuple[Deletion, int], ...]" = ()


def add_to(app: typer.Typer) -> None:
    """Add this part's command."""
    app.command("verify")(verify)


def verify(
    topic: Annotated[str, typer.Option(help="Only this topic, e.g. loomos.scheduler.")] = "",
    tiles: Annotated[Path | None, typer.Option(help="The folder of the trees.")] = None,
    log_dir: Annotated[
        Path | None, typer.Option(help="A copy of Kafka's log directory, instead of a broker.")
    ] = None,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Compare every archived object with the signed trees; exit status 1 where one differs.

    Example: loomos archive verify --topic loomos.data
    """
    from loom.log.survey import survey

    count = bad = unknown = 0
    with named():
        settings = Settings.load("loomdb")
        depot = depot_in(settings)
        verifier = public_key(key, settings)
        opened, broken = survey(tiles or settings.home / "trees", verifier)
        if not opened:
            fail(broken[0].faults[0].detail if broken else "no tree is signed yet: --tiles?")
        known = Known(settings, depot, log_dir, opened, verifier)
        found = [Checked(f"{one.topic}-{one.partition}", one.faults[0].detail) for one in broken]
        for one in (*found, *known.checked(topic)):
            show(one, as_json)
            count += one.object.endswith(".parquet")
            bad += bool(one.fault)
            unknown += bool(one.unknown)
    if not as_json:
        told = f"{count} objects in {depot.url}, {bad} faults, {unknown} cannot be judged"
        err.print(told, markup=False)
    if bad or unknown:
        raise typer.Exit(1 if bad else 2)


class Known:
    """What the signed trees and the log say of the archive."""

    def __init__(
        self,
        settings: Settings,
        depot: "Depot",
        log_dir: Path | None,
        trees: "list[Sealed]",
        verifier: Verifier,
    ) -> None:
        from loom.log.deletions import TOPIC, Deletions

        self.settings, self.depot, self.log_dir, self.trees = settings, depot, log_dir, trees
        self.verifier = verifier
        self.cache = settings.home / "archive-cache"
        self.deletions = Deletions()
        heard = [self.hear(one, self.deletions) for one in trees if one.topic == TOPIC]
        self.unheard = "" if heard and all(heard) else f"{TOPIC} could not be read whole"

    def hear(self, sealed: "Sealed", deletions: "Deletions") -> bool:
        """Have a partition's events heard; whether all that are signed were."""
        from loom.log.verify import verify, verify_folder
        from loom.log.verify_cold import Cold
        from loom.log.verify_live import verify_live

        cold = Cold(self.depot, self.cache, sealed.topic, sealed.partition)
        if self.log_dir is not None:
            report = verify_folder(sealed, self.log_dir, cold.before, deletions)
        elif self.settings.kafka:
            report = asyncio.run(verify_live(self.settings, sealed, deletions))
        else:
            report = verify(sealed, cold.before(-1), deletions)
        return report.records == report.size and not report.faults

    def checked(self, topic: str) -> Iterator[Checked]:
        """Each object's verdict, tree by tree."""
        from loom.log.archive import Flaw, Manifest, latest, listed
        from loom.log.verify import Inspection

        for sealed in self.trees:
            if topic not in ("", sealed.topic):
                continue
            name = f"{sealed.topic}-{sealed.partition}"
            entries = list(listed(self.depot, sealed.topic, sealed.partition))
            if entries and (faults := Inspection(sealed).faults):
                yield Checked(name, f"{faults[0].text()}: its objects are not compared")
                continue
            yield from (Checked(one.name, one.what) for one in entries if isinstance(one, Flaw))
            chain = latest(one for one in entries if isinstance(one, Manifest))
            for manifest in chain:
                yield self.compared(manifest, sealed)
            end = self.deletions.ends.get((sealed.topic, sealed.partition), 0)
            for first, last in gaps(chain, end):
                yield Checked(f"{name} offset {first} to {last}", "missing: no object holds them")

    def compared(self, manifest: "Manifest", sealed: "Sealed") -> Checked:
        """The verdict on one object."""
        from loom.log.archive import fetch
        from loom.log.parquet import DamagedArchive, columns_in, decoded
        from loom.log.tiles import DamagedTree
        from loom.log.vouched import verify, verify_claims

        try:
            path = fetch(self.depot, manifest, self.cache)
            records = decoded(path)
            verify(manifest, records, sealed)
            verify_claims(manifest, records, columns_in(path), sealed, self.verifier)
        except (DamagedArchive, DamagedTree) as error:
            return Checked(manifest.object, str(error))
        counted: Counter[Deletion] = Counter()
        missing: list[int] = []
        for record in records:
            if record.deleted:
                place = (manifest.topic, manifest.partition, record.offset)
                if (deletion := self.deletions.of(*place)) is None:
                    missing.append(record.offset)
                else:
                    counted[deletion] += 1
        deleted = tuple(sorted(counted.items()))
        if not missing:
            return Checked(manifest.object, deleted=deleted)
        told = f"the content of {len(missing)} records from offset {missing[0]} on is gone, and "
        told += "no event of the log says that a policy deleted it"
        if self.unheard:
            why = f"{told}: but {self.unheard}; give a copy of Kafka's files with --log-dir"
            return Checked(manifest.object, "", why, deleted)
        return Checked(manifest.object, f"missing: {told}", "", deleted)


def gaps(chain: "Iterable[Manifest]", end: int) -> Iterator[tuple[int, int]]:
    """The offsets, first and last, that no range of a chain holds, below `end`."""
    at = 0
    for manifest in chain:
        if manifest.first_offset > at:
            yield at, manifest.first_offset - 1
        at = max(at, manifest.next_offset)
    if end > at:
        yield at, end - 1


def show(one: Checked, as_json: bool) -> None:
    """One verdict."""
    if as_json:
        deleted = [deletion._asdict() | {"records": count} for deletion, count in one.deleted]
        print_json(one._asdict() | {"deleted": deleted})
        return
    told = one.fault or one.unknown or "as signed"
    out.print(printable(f"{one.object}: {told}"), style="red" if one.fault else "", markup=False)
    for deletion, count in one.deleted:
        said = f"by policy: {deletion.policy}, event {deletion.event_id}"
        told = f"{one.object}: the content of {count} records was deleted {said}"
        out.print(printable(told), markup=False)


@contextmanager
def named() -> Iterator[None]:
    """What keeps an archive from being read becomes one line, and exit status 2."""
    from loom.catalogue import Undecodable
    from loom.log.note import InvalidNote
    from loom.log.parquet import DamagedArchive
    from loom.log.tiles import DamagedTree

    try:
        yield
    except (DamagedArchive, DamagedTree, InvalidNote, Undecodable, OSError, ValueError) as error:
        fail(str(error))


def depot_in(settings: Settings) -> "Depot":
    """Where this installation's archive lies."""
    from loom.log.depot import depot_of

    depot = depot_of(settings)
    if depot is None:
        fail("no archive is known: set LOOMOS_ARCHIVE")
    return depot
