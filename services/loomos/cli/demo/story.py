"""`loomos demo`: sets the stage, plays the chapters, says how it went, and leaves the data.

1. Exit status 0 only if every step held. A chapter that fails ends those that build on it.
2. What was started is stopped, also after an error or Ctrl-C; `--keep` leaves it running.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from loom.kit.config import default_home
from loomos.cli.demo.stage import NotHeld, Stage
from loomos.cli.platform import start
from loomos.client.profile import Refused

__all__ = ["add_to"]

FAILURES = (NotHeld, Refused, OSError, subprocess.SubprocessError, LookupError)
"""What ends a chapter: it is told as the step that did not hold."""

console = Console(highlight=False, soft_wrap=True)


def add_to(app: typer.Typer) -> None:
    """Add this part's command."""
    app.command()(demo)


def demo(
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the platform running.")] = False,
    home: Annotated[
        Path | None, typer.Option(help="A fresh folder; else LOOMOS_HOME, else one is made.")
    ] = None,
) -> None:
    """Walk one real training job through the whole platform; exit status 0 if every step held."""
    tell = told_json if as_json else told
    place = fresh(home)
    os.environ["LOOMOS_HOME"] = str(place)
    stage = Stage(place, tell)
    try:
        up(stage)
        play(stage)
        goodbye(stage, keep)
    finally:
        stage.close(keep)
        if not keep:
            stage.tell({"progress": "stopping everything", **stage.clock()})
            down = stage.loomos("down")
            stage.tell({"progress": (down.stdout or down.stderr).strip(), **stage.clock()})
    if stage.failures:
        raise typer.Exit(1)


def fresh(given: Path | None) -> Path:
    """The story's folder, in which nobody has enrolled yet."""
    named = given or (Path(os.environ["LOOMOS_HOME"]) if os.environ.get("LOOMOS_HOME") else None)
    if named is None:
        base = default_home(os.environ)
        return base.with_name(f"{base.name}-demo-{time.strftime('%Y%m%d-%H%M%S')}")
    if (named / "version").exists() and not (named / "enrolment.token").exists():
        told = f"{named} has an administrator already: the demo wants a fresh folder"
        raise Refused(0, "FAILED_PRECONDITION", told)
    return named.absolute()


def up(stage: Stage) -> None:
    """Start the platform; how far it is comes line by line."""
    process, lines = start(stage.home, detach=True)
    # It is our child: who waits for its end must not find a zombie.
    threading.Thread(target=process.wait, daemon=True).start()
    for line in lines:
        said = json.loads(line)
        match said["step"]:
            case "up":
                return
            case "enrolment":
                continue
            case "failed":
                raise Refused(0, "UNAVAILABLE", said["line"])
            case "running":
                return
            case step:
                stage.tell({"progress": f"{step}: {said['line']}", **stage.clock()})
    raise Refused(0, "UNAVAILABLE", f"the platform did not start: see {stage.home / 'logs'}")


def play(stage: Stage) -> None:
    """All chapters; the first four carry the others."""
    # Slow to import, and no other command of `loomos` needs them.
    from loomos.cli.demo import (
        audit,
        costs,
        crashes,
        ending,
        nodes,
        people,
        preemption,
        serving,
        training,
    )
    from loomos.cli.demo.outsider import Outsider

    outsider = Outsider(stage)
    outsider.prepare()
    chapters: list[tuple[int, Callable[[], None]]] = [
        (1, lambda: people.play(stage)),
        (2, lambda: nodes.play(stage)),
        (4, lambda: training.play(stage)),
        (5, lambda: preemption.play(stage)),
        (6, lambda: crashes.play(stage)),
        (5, lambda: ending.play(stage)),
        (7, lambda: serving.play(stage, outsider)),
        (8, lambda: costs.play(stage)),
        (9, lambda: audit.play(stage)),
    ]
    for step, chapter in chapters:
        try:
            chapter()
        except FAILURES as error:
            stage.failed(step, f"{type(error).__name__}: {error}")
            if step <= 4:
                return


def goodbye(stage: Stage, keep: bool) -> None:
    """What to try next, and where everything is."""
    from loomos.cli.demo import nodes

    state = stage.state()
    program = "./loomos" if Path("loomos").is_file() else "loomos"
    home = f"LOOMOS_HOME={stage.home}"
    job_id, story = stage.ids.get("training", "JOB"), stage.ids.get("training-story", "STORY")
    commands = [
        f"{home} {program} --profile researcher why {job_id}",
        f"{home} {program} --profile admin audit story --organisation platform {story}",
        f"{home} {program} replay --to {stage.ids.get('running', 'EVENT')}",
    ]
    if not keep:
        commands = [f"{home} {program} up --detach", *commands[:2]]
    stage.tell(
        {
            "ended": True,
            "held": not stage.failures,
            **stage.clock(),
            "try": commands,
            "rest": f"{state['gateway']}/docs",
            "ca": state["ca"],
            "home": str(stage.home),
            "node": f"{home} {program} node run --name {nodes.SECOND}",
            "agents": {one.name: one.pid for one in stage.agents.values()} if keep else {},
        }
    )


def told_json(one: dict[str, Any]) -> None:
    """One object a line."""
    sys.stdout.write(json.dumps(one, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def told(one: dict[str, Any]) -> None:
    """The same for people."""
    seconds = f"[dim]{one.get('seconds', 0.0):6.1f} s[/dim]"
    if "progress" in one:
        console.print(f"{seconds}     [dim]{escape(one['progress'])}[/dim]")
    elif "step" in one:
        mark = "[green]held[/green]" if one["held"] else "[red]NOT HELD[/red]"
        console.print(f"{seconds}  [bold]{one['step']}[/bold]  {mark}  {escape(one['told'])}")
        if "event_id" in one:
            proof = f"{one['event_type']}  {one['event_id']}"
            console.print(f"                      [cyan]{escape(proof)}[/cyan]")
        for line in one.get("tree", ()):
            console.print(f"                      [dim]{escape(line)}[/dim]")
    else:
        console.print("\nevery step held" if one["held"] else "\n[red]not every step held[/red]")
        console.print("try next:")
        for command in one["try"]:
            console.print(f"  {escape(command)}")
        pids = " ".join(str(pid) for pid in one["agents"].values())
        later = "" if pids else ", after `up`"
        console.print(f"REST and OpenAPI{later}: {one['rest']} (trust {escape(one['ca'])})")
        if pids:
            console.print(f"everything runs: `loomos down` stops it, `kill {pids}` the agents")
        else:
            console.print(f"nodes come back by their agents: {escape(one['node'])}")
        console.print(f"everything lies in {escape(one['home'])}")
