"""`loomos up | down | status | logs | run`: the platform's processes on this machine.

1. `up` watches a supervisor that is a process of its own; only that one starts and stops things.
2. What an operator can mend is one line on standard error and exit status 1.
"""

import asyncio
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loom.kit.config import default_home
from loomos.cli.follow import job_log

__all__ = ["add_to", "home_folder", "start"]

console = Console(stderr=True, highlight=False)
DOWN_SECONDS = 90.0
LOG_LINES = 50


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (up, down, status, logs, run):
        app.command()(command)


def home_folder() -> Path:
    """The platform's folder, from LOOMOS_HOME or where it lies by default."""
    return Path(os.environ.get("LOOMOS_HOME") or default_home(os.environ)).expanduser().absolute()


def fail(line: str) -> typer.Exit:
    """Say what is wrong, in one line."""
    console.print(f"[red]error:[/red] {escape(line)}", soft_wrap=True)
    return typer.Exit(1)


def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Go on in the background.")
    ] = False,
) -> None:
    """Start Kafka, Postgres and every service, and supervise them."""
    home = home_folder()
    began = time.monotonic()
    process, lines = start(home, detach)
    try:
        healthy = watch(process, lines, began)
        if not healthy or detach:
            if not healthy:
                raise typer.Exit(process.wait())
            return
        console.print("[dim]Ctrl-C stops everything[/dim]")
        watch(process, lines, began)
        raise typer.Exit(process.wait())
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        process.send_signal(signal.SIGTERM)
        watch(process, lines, began)
        process.wait()


def start(home: Path, detach: bool) -> tuple[subprocess.Popen[bytes], TextIO]:
    """Spawn a supervisor; what it tells about its progress comes line by line."""
    read, write = os.pipe()
    command = [sys.executable, "-m", "loomos.embedded.supervisor", str(write)]
    if not detach:
        command.append(str(os.getpid()))
    environ = os.environ | {"LOOMOS_HOME": str(home)}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        env=environ,
        pass_fds=[write],
        start_new_session=True,
    )
    os.close(write)
    return process, os.fdopen(read)


def watch(process: subprocess.Popen[bytes], lines: TextIO, began: float) -> bool:
    """Show progress until all is healthy (True) or the supervisor has said its last (False)."""
    for line in lines:
        told = json.loads(line)
        seconds = f"[dim]{time.monotonic() - began:6.1f} s[/dim]"
        match told["step"]:
            case "up":
                console.print(f"{seconds}  [green]LoomOS is up[/green]")
                return True
            case "failed":
                process.wait()
                raise fail(told["line"])
            case "running":
                process.wait()
                console.print("LoomOS already runs in this home: nothing was changed")
                raise typer.Exit(0)
            case "enrolment":
                console.print(
                    "there is no administrator yet: [bold]loomos enrol --user NAME --token "
                    f"{told['line']}[/bold]",
                    soft_wrap=True,
                )
            case step:
                console.print(f"{seconds}  {step:<18} {escape(told['line'])}")
    return False


def down() -> None:
    """Stop everything that `up` started; data stay."""
    from loomos.embedded.home import Home
    from loomos.embedded.process import Unusable, alive, stop_marked
    from loomos.embedded.stores import stop_left

    path = home_folder()
    if not (path / "version").exists():
        console.print(f"nothing runs: {path} is no LoomOS home")
        return
    try:
        home = Home.open(path)
        lock = home.lock()
        if lock is None:
            marked = (home.path / "supervisor.pid").read_text()
            if alive(marked) is not None:
                console.print("stopping services, Kafka and PostgreSQL")
                stop_marked(marked, signal.SIGTERM, DOWN_SECONDS, family=False)
            lock = home.lock()
        if lock is None:
            raise fail(f"a process still holds {home.path / 'supervisor.lock'}")
        with lock:
            stop_left(home, lambda line: console.print(line))
            home.clear_state()
    except Unusable as error:
        raise fail(str(error)) from error
    console.print("nothing runs; data stay in " + str(path))


def status(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Show what runs, where it listens and whether it is healthy; exit status 1 if not all is."""
    found = state_with_health(home_folder())
    if as_json:
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        show(found)
    if not found["healthy"]:
        raise typer.Exit(1)


def state_with_health(path: Path) -> dict[str, Any]:
    """`state.json`, with what is true now."""
    from loomos.embedded.home import Home
    from loomos.embedded.process import alive

    state = Home(path).read_state()
    running = bool(state) and alive(state["supervisor"]["mark"]) is not None
    if not running:
        return {"home": str(path), "running": False, "healthy": False, "services": {}}
    asyncio.run(ask_all(path, state["services"]))
    healthy = all(service["healthy"] for service in state["services"].values())
    return {"home": str(path), "running": True, "healthy": healthy, **state}


async def ask_all(path: Path, services: dict[str, Any]) -> None:
    """Ask every service for its health at once."""
    from loom.kit.config import Settings
    from loomos.embedded.health import healthy
    from loomos.embedded.supervisor import SUPERVISOR

    probe = Settings.load(SUPERVISOR, {"LOOMOS_HOME": str(path)})
    answers = await asyncio.gather(
        *(healthy(probe, service["address"]) for service in services.values())
    )
    for service, answer in zip(services.values(), answers, strict=True):
        service["healthy"] = answer


def show(found: dict[str, Any]) -> None:
    """The state as a table."""
    if not found["running"]:
        console.print(f"LoomOS does not run in {found['home']}: start it with `loomos up`")
        return
    table = Table(box=None, header_style="bold")
    for column in ("process", "pid", "address", "health", "restarts"):
        table.add_column(column)
    for name in ("kafka", "postgres"):
        store = found.get(name, {})
        address = store.get("bootstrap") or f"{store.get('host', '')}:{store.get('port', '')}"
        table.add_row(name, str(store.get("pid", "given")), address.strip(":"), "", "")
    for name, service in found["services"].items():
        health = "[green]healthy[/green]" if service["healthy"] else "[red]not healthy[/red]"
        pid = str(service["pid"] or "-")
        table.add_row(name, pid, service["address"], health, str(service["restarts"]))
    Console().print(table)
    if "gateway" in found:
        rest, grpc = found["gateway"], found["services"]["gateway"]["address"]
        told = f"REST and OpenAPI: {rest}/docs, gRPC: {grpc} (trust {found['ca']})"
        Console(soft_wrap=True).print(told)


def logs(
    service: Annotated[
        str, typer.Argument(help="A job's id, a service, or kafka, postgres, supervisor.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
) -> None:
    """Show a job's log, or the last lines of a process's log.

    Example: loomos logs -f job-local-…
    """
    if service.startswith("job-"):
        job_log(service, follow)
        return
    folder = home_folder() / "logs"
    known = sorted(path.stem for path in folder.glob("*.log"))
    if service not in known:
        raise fail(f"no log of {service!r}: there are {', '.join(known) or 'none'}")
    path = folder / f"{service}.log"
    with path.open(errors="replace") as file:
        file.seek(max(0, path.stat().st_size - LOG_LINES * 400))
        sys.stdout.write("".join(file.readlines()[-LOG_LINES:]))
        while follow:
            sys.stdout.flush()
            if path.stat().st_size < file.tell():
                file.seek(0)
            if more := file.read():
                sys.stdout.write(more)
            else:
                select.select([], [], [], 0.3)


def run(
    service: Annotated[str, typer.Argument(help="Which process to be, e.g. scheduler.")],
) -> None:
    """Be one service, in the foreground; settings come from LOOMOS_* variables."""
    from loomos.embedded.runner import run_service

    raise typer.Exit(run_service(service))
