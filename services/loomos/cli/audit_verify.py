"""`loomos audit verify`: every record against the signed trees, of a running log or of a copy.

1. It trusts the notary's public key and nothing else; with `--log-dir` it needs no broker.
2. A tree that cannot be opened is a fault of its partition; the others are compared all the same.
3. Exit status: 0 all is well, 1 something is wrong (one line a fault), 2 nothing could be verified.
"""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from loom.kit.config import InvalidSetting, Settings
from loom.log.note import InvalidNote, Verifier
from loom.log.tiles import DamagedTree
from loomos.cli.show import UNSEEN, Json, err, print_json, printable

if TYPE_CHECKING:
    from loom.log.deletions import Deletions
    from loom.log.verify import Report, Sealed

__all__ = ["Key", "add_to", "fail", "of_copy", "public_key"]

Key = Annotated[str, typer.Option("--key", help="The notary's public key: a file or its one line")]


def add_to(app: typer.Typer) -> None:
    """Add this part's command."""
    app.command("verify")(verify)


def verify(
    log_dir: Annotated[Path | None, typer.Option(help="A copy of Kafka's log directory")] = None,
    archive: Annotated[
        Path | None, typer.Option(help="A copy of the archive: what Kafka has forgotten is there")
    ] = None,
    tiles: Annotated[Path | None, typer.Option(help="The folder of the trees")] = None,
    key: Key = "",
    as_json: Json = False,
) -> None:
    """Compare every record of every partition with the signed hash trees.

    Example: loomos audit verify --log-dir COPY/kafka/data --archive COPY/archive
    """
    # Slow to import, and no other command of `loomos` needs it.
    from loom.log.deletions import Deletions
    from loom.log.survey import survey, unvouched
    from loom.log.verify import heard_first

    try:
        settings = Settings.load("loomdb")
        top = tiles or settings.home / "trees"
        sealed, reports = survey(top, public_key(key, settings))
        if not sealed:
            fail(reports[0].faults[0].detail if reports else f"no signed tree in {top}: --tiles?")
        if archive is not None and (log_dir is None or not archive.is_dir()):
            fail(f"{archive}: give an archive's folder, beside --log-dir")
        if log_dir is None:
            reports += asyncio.run(live(settings, heard_first(sealed)))
        elif log_dir.is_dir():
            deletions, trees = Deletions(), heard_first(sealed)
            reports += [of_copy(one, log_dir, archive, settings, deletions) for one in trees]
            for name in unvouched(log_dir, reports):
                err.print(f"{name}: no signed tree vouches for what is there", markup=False)
        else:
            fail(f"{log_dir} is not a folder")
    except (InvalidSetting, InvalidNote, DamagedTree, OSError) as error:
        fail(str(error))
    show_reports(reports, as_json)
    if any(report.faults for report in reports):
        raise typer.Exit(1)


async def live(settings: Settings, sealed: "list[Sealed]") -> "list[Report]":
    """The reports on what the broker serves."""
    from loom.log.deletions import Deletions
    from loom.log.verify_live import verify_live

    if not settings.kafka:
        fail("no broker is known: run `loomos up`, or give a copy of its files with --log-dir")
    deletions = Deletions()
    return [await verify_live(settings, one, deletions) for one in sealed]


def of_copy(
    sealed: "Sealed",
    log_dir: Path,
    archive: Path | None,
    settings: Settings,
    deletions: "Deletions",
) -> "Report":
    """Verify a partition of a copy; says how much of it lies in the archive."""
    from loom.log.verify import verify_folder

    if archive is None:
        return verify_folder(sealed, log_dir, deletions=deletions)
    from loom.log.depot import Depot
    from loom.log.verify_cold import Cold

    depot = Depot(str(archive.absolute()))
    cold = Cold(depot, settings.home / "archive-cache", sealed.topic, sealed.partition)
    report = verify_folder(sealed, log_dir, cold.before, deletions)
    if cold.records:
        told = f"the first {cold.records} records lie in the archive"
        err.print(f"{sealed.topic}-{sealed.partition}: {told}", markup=False)
    return report


def show_reports(reports: "list[Report]", as_json: bool) -> None:
    """One line a partition, then one a fault."""
    if as_json:
        for report in reports:
            faults = [fault._asdict() for fault in report.faults]
            deleted = [one._asdict() | {"records": count} for one, count in report.deleted]
            print_json(report._asdict() | {"faults": faults, "deleted": deleted})
        return
    out = Console(soft_wrap=True, highlight=False, width=UNSEEN)
    table = Table("partition", "signed", "compared", "not signed yet", "result")
    for report in reports:
        result = "[green]intact[/green]"
        if report.faults:
            result = f"[red]{len(report.faults)} faults[/red]"
        name = f"{report.topic}-{report.partition}"
        table.add_row(name, str(report.size), str(report.records), str(report.unsigned), result)
    out.print(table)
    for report in reports:
        for deletion, count in report.deleted:
            told = f"{report.topic}-{report.partition}: the content of {count} records was deleted"
            told += f" by policy: {deletion.policy}, event {deletion.event_id}"
            out.print(printable(told), markup=False)
        for fault in report.faults:
            out.print(printable(fault.text()), style="red", markup=False)


def public_key(given: str, settings: Settings) -> Verifier:
    """The notary's key: the one given, else this installation's own; raises InvalidNote."""
    path = Path(given) if given else settings.credentials / "notary.pub"
    if given and given.count("+") > 1 and not path.is_file():
        return Verifier.parse(given)
    if not path.exists():
        raise InvalidNote(f"{path} is not there: give the notary's public key with --key")
    return Verifier.load(path)


def fail(message: str) -> NoReturn:
    """Say why, and end with exit code 2."""
    told = printable(message)
    Console(stderr=True, soft_wrap=True).print(told, style="red", markup=False)
    raise typer.Exit(2)
