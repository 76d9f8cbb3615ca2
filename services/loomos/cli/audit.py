"""`loomos audit`: what happened and why, and the proof that nobody changed it.

`story`, `events` and `proof` ask the gateway, so they see what the caller may see, and each of them
leaves a record of having been asked.
"""

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.tree import Tree

from loom.kit.config import InvalidSetting, Settings
from loom.log import regular
from loom.log.note import InvalidNote, decoded
from loom.log.proof import InvalidProof, Proof
from loom.log.tiles import DamagedTree
from loomos.cli import audit_verify, sql
from loomos.cli.audit_verify import Key, fail, public_key
from loomos.cli.door import AsOf, Door, place_of, segment
from loomos.cli.show import UNSEEN, Json, err, line_of, print_json, printable

__all__ = ["app"]

app = typer.Typer(help="What happened, why, and the proof of it.", no_args_is_help=True)
sql.add_to(app)
audit_verify.add_to(app)
out = Console(soft_wrap=True, highlight=False, width=UNSEEN)

PROOF_BYTES_MAX = 1 << 20

Organisation = Annotated[str, typer.Option(help="Whose trail; `platform` reads all of them")]


@app.command()
def story(
    correlation_id: str, organisation: Organisation = "", as_of: AsOf = "", as_json: Json = False
) -> None:
    """Show everything that one command led to, as a tree of causes."""
    found = asked(f"stories/{segment(correlation_id)}", organisation, as_of=as_of)
    if as_json:
        print_json(found)
        return
    tree = Tree(f"[bold]{escape(correlation_id)}[/bold]")
    branches = {-1: tree}
    for entry in found.get("entries", []):
        depth = entry.get("depth", 0)
        branches[depth] = branches[depth - 1].add(line_of(entry["event"]))
    out.print(tree)
    if not found.get("complete"):
        out.print(
            "[yellow]the story has more events: list them with `loomos audit events`[/yellow]"
        )


@app.command()
def events(
    type_prefix: Annotated[str, typer.Option("--type", help="e.g. job. or job.preempted")] = "",
    actor: str = "",
    stream: str = "",
    correlation_id: str = "",
    from_us: Annotated[int, typer.Option(help="Microseconds since 1970")] = 0,
    to_us: Annotated[int, typer.Option(help="Microseconds since 1970; 0 means no bound")] = 0,
    limit: int = 100,
    cursor: str = "",
    upcast: Annotated[
        bool, typer.Option("--upcast", help="Users' payloads by their newest schema.")
    ] = False,
    organisation: Organisation = "",
    as_of: AsOf = "",
    as_json: Json = False,
) -> None:
    """List events, oldest first."""
    filters = {
        "type_prefix": type_prefix,
        "actor": actor,
        "stream": stream,
        "correlation_id": correlation_id,
        "from_us": from_us,
        "to_us": to_us,
        "limit": limit,
        "cursor": cursor,
        "upcast": upcast and "true",
    }
    given = {name: value for name, value in filters.items() if value}
    page = asked("events", organisation, given, as_of)
    for event in page.get("events", []):
        if as_json:
            print_json(event)
        else:
            out.print(line_of(event))
    if gone := page.get("deleted_by_policy"):
        err.print(f"besides, the content of {gone} events was deleted by policy", markup=False)
    if page.get("next_cursor") and not as_json:
        out.print(f"[dim]more: --cursor {page['next_cursor']}[/dim]")


@app.command()
def proof(
    events: Annotated[list[str], typer.Argument(help="Ids of events, or topic/partition@offset")],
    to: Annotated[
        Path | None,
        typer.Option("--out", "--to", help="A .tlog-proof file; for several events a folder"),
    ] = None,
    key: Key = "",
    organisation: Organisation = "",
) -> None:
    """Fetch proofs that events stand in the signed tree, and check them here.

    Example: loomos audit proof 2c0…d4.1 --out event.tlog-proof
    """
    for name, found in proofs_of(events, organisation):
        made = Proof(
            leaf=decoded(found.get("leaf", "")),
            index=int(found.get("index", 0)),
            path=tuple(decoded(step) for step in found.get("path", [])),
            checkpoint=found.get("checkpoint", ""),
        )
        if to is not None and len(events) > 1:
            to.mkdir(parents=True, exist_ok=True)
            (to / f"{name.replace('/', '-')}.tlog-proof").write_text(made.text())
        elif to is not None:
            to.write_text(made.text())
        show_proof(made, key)


@app.command()
def export(
    out_dir: Annotated[Path, typer.Option("--out", help="The folder to make")],
    begin: Annotated[str, typer.Option("--from", help="A moment, e.g. 2026-10-01")] = "",
    end: Annotated[str, typer.Option("--to", help="Before this moment")] = "",
    log: Annotated[
        list[str] | None, typer.Option(help="Only this one, e.g. loomos.scheduler-0")
    ] = None,
    organisation: Organisation = "",
) -> None:
    """Write records, leaves and signed checkpoints for somebody who verifies them offline.

    Example: loomos audit export --from 2026-10-01 --to 2027-01-01 --out q4 --organisation platform
    Then, anywhere: python -I q4/loomos_verify.py q4 --key …
    """
    from loomos.cli.audit_source import exported

    try:
        span = (moment(begin), moment(end))
        exported(out_dir, span, log or [], organisation)
    except (OSError, ValueError, InvalidNote, DamagedTree) as error:
        fail(str(error))


@app.command()
def verifier() -> None:
    """Print the stand-alone verifier: one Python file that needs nothing of LoomOS."""
    from importlib.resources import files

    sys.stdout.write(files("loomos.verify").joinpath("loomos_verify.py").read_text())


@app.command()
def witnesses(topic: str, partition: int = 0, organisation: Organisation = "") -> None:
    """Say how far witnesses have cosigned a partition's tree.

    Example: loomos audit witnesses loomos.scheduler
    """
    found = asked(f"checkpoints/{segment(topic)}/{partition}", organisation)
    needed = found.get("witnesses_needed", 0)
    out.print(f"signed: {found.get('size', 0)} leaves")
    if not needed:
        out.print("witnessed: no witness is asked")
    elif not found.get("witnessed_size"):
        out.print(f"[yellow]witnessed: not yet; {needed} must sign[/yellow]")
    else:
        names = escape(", ".join(found.get("witnesses", [])))
        out.print(f"[green]witnessed[/green]: {found['witnessed_size']} leaves by {names}")


@app.command("check-proof")
def check_proof(file: Path, key: Key = "") -> None:
    """Check a .tlog-proof file; needs nothing but the notary's public key."""
    try:
        show_proof(Proof.parse(regular.read(file, PROOF_BYTES_MAX).decode()), key)
    except UnicodeDecodeError:
        fail(f"{file} is no .tlog-proof file: `loomos-verify` checks exports and reports")
    except (InvalidProof, OSError) as error:
        fail(str(error))


def proofs_of(events: list[str], organisation: str) -> list[tuple[str, dict[str, Any]]]:
    """Names of events and their proofs, in the order asked for; ends where one has none."""
    places = [one.rpartition("@") for one in events if "/" in one]
    if places:
        if len(places) != len(events):
            fail("give ids of events or places in the log, not both")
        return [
            (f"{place}@{offset}", asked(f"proofs/{place}/{segment(offset)}", organisation))
            for place, _, offset in places
        ]
    if len(events) == 1:
        return [(events[0], asked(f"events/{segment(events[0])}/proof", organisation))]
    found = asked("proofs", organisation, body={"event_ids": events})
    if found.get("unproved_event_ids"):
        fail(f"no proof of {', '.join(found['unproved_event_ids'])}: unknown, or not signed yet")
    return [(one["event_id"], one) for one in found.get("proofs", [])]


def moment(text: str) -> int:
    """A moment in milliseconds since 1970; UTC unless it says otherwise; 0 for none."""
    if not text:
        return 0
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        fail(f"{text!r} is no moment: want e.g. 2026-10-01 or 2026-10-01T12:00:00Z")
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def show_proof(made: Proof, key: str) -> None:
    """Say what a proof proves; ends with exit code 2 when it does not."""
    try:
        leaf, checkpoint = made.verify(public_key(key, Settings.load("loomdb")))
    except (InvalidProof, InvalidNote, InvalidSetting) as error:
        fail(str(error))
    kind = ("void record", "event", "epoch marker")[leaf.kind]
    out.print(
        f"[green]proved[/green]: the {kind} at offset {leaf.offset} with digest "
        f"{leaf.digest.hex()} is leaf {made.index} of {checkpoint.size} in "
        f"{escape(printable(checkpoint.origin))}"
    )


def asked(
    path: str,
    organisation: str,
    parameters: dict[str, Any] | None = None,
    as_of: str = "",
    body: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The gateway's answer about an organisation's trail; a body makes it a POST."""
    with Door.open(as_of=as_of) as door:
        told = "whose trail? give --organisation"
        place = place_of(door, organisation, f"audit/{path}", told)
        if body is not None:
            return door.call("POST", place, body, reads=True)
        return door.call("GET", place, params=parameters)
