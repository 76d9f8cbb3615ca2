"""`loomos witness`: a witness for somebody else's log, run where its owner has no hand.

It needs no platform: a folder, a port, and the public key of the notary that it watches.
"""

import json
import secrets
from hashlib import sha256
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from loom.kit.config import InvalidSetting, host_port
from loom.log.note import InvalidNote, Verifier, checked_name
from loomos.cli.show import Json, err, out, print_json, table
from loomos.witness.book import Book, BookHeld, Trusted, found
from loomos.witness.certificate import self_signed

__all__ = ["app"]

app = typer.Typer(help="Cosign another platform's checkpoints.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="The witness's folder: its key and its book")]


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The name it signs under, e.g. witness.example/w1")],
    log_key: Annotated[
        list[str], typer.Option("--log", help="A notary's public key: its line or a file")
    ],
    host: Annotated[str, typer.Option(help="The host in its certificate")] = "localhost",
) -> None:
    """Make a witness: its key, its certificate, its token.

    Example: loomos witness init w1 --name witness.example/w1 --log notary.pub --host w1.example
    """
    try:
        keys = [Verifier.load(Path(k)) if Path(k).exists() else Verifier.parse(k) for k in log_key]
        token = secrets.token_urlsafe(32)
        logs = [Trusted(key, f"{key.name}/") for key in keys]
        digest = sha256(token.encode()).digest()
        book = found(folder, checked_name(name), logs, digest)
        certificate, _ = self_signed(folder, host)
    except (InvalidNote, OSError) as error:
        fail(str(error))
    err.print("the token is shown this once; give the notary this entry of witnesses.json:")
    entry = {
        "url": f"https://{host}:PORT",
        "key": book.cosigner.public.text(),
        "token": token,
        "ca": str(certificate.resolve()),
    }
    print_json({"needed": 1, "witnesses": [entry]})


@app.command()
def run(
    folder: Folder,
    listen: Annotated[str, typer.Option(help="host:port")] = "127.0.0.1:8443",
    certificate: Annotated[Path | None, typer.Option(help="PEM; else its own")] = None,
    certificate_key: Annotated[Path | None, typer.Option(help="PEM; else its own")] = None,
) -> None:
    """Cosign what is proved to have grown, until stopped.

    Example: loomos witness run w1 --listen 0.0.0.0:8443
    """
    # Slow to import, and nothing else here needs it.
    from loomos.witness.main import serve

    try:
        host, port = host_port("--listen", listen)
        book = Book(folder)
        own = (folder / "tls.crt", folder / "tls.key")
        err.print(f"witness {book.name} listens on https://{listen}", markup=False)
        serve(book, host.strip("[]"), port, certificate or own[0], certificate_key or own[1])
    except (InvalidNote, InvalidSetting, BookHeld, OSError) as error:
        fail(str(error))


@app.command()
def show(folder: Folder, as_json: Json = False) -> None:
    """What it has cosigned: the last checkpoint of each log.

    Example: loomos witness show w1
    """
    try:
        book = Book(folder)
        entries = book.entries()
    except (InvalidNote, OSError) as error:
        fail(str(error))
    rows = [
        (entry.checkpoint.origin, entry.checkpoint.size, entry.checkpoint.root.hex())
        for entry in entries
    ]
    if as_json:
        for origin, size, root in rows:
            print_json({"origin": origin, "size": size, "root": root})
        return
    out.print(f"key: {book.cosigner.public.text()}", markup=False)
    out.print(f"watches: {json.dumps([one.prefix for one in book.logs])}", markup=False)
    table(("origin", "leaves", "root"), rows, "nothing was cosigned yet")


def fail(message: str) -> NoReturn:
    """Say why, and end with exit code 2."""
    err.print(f"error: {message}", style="red", markup=False)
    raise typer.Exit(2)
