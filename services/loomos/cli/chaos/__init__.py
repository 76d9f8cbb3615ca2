"""`loomos chaos`: seeded faults against LoomDB as real processes, and what must hold after them.

1. Everything runs in a fresh folder and on loopback, and ends with the command; the folder goes
   where everything held, and stays, named, where something did not.
2. The seed chooses faults and commands; it is printed, so that a run can be repeated.
3. A class of faults that cannot be had on this machine is named as not run, never left out.
"""

from functools import partial
from typing import Annotated

import typer

from loomos.cli.show import Json
from loomos.cli.soak.ending import run_apart
from loomos.cli.soak.story import Story

__all__ = ["app"]

app = typer.Typer(help="Break LoomDB on purpose and check what it promises.", no_args_is_help=True)

Seed = Annotated[int, typer.Option(min=0, help="Chooses faults and commands; else drawn.")]
Minutes = Annotated[int, typer.Option(min=1, max=24 * 60, help="How long.")]
Only = Annotated[list[str] | None, typer.Option(help="This class of faults alone; repeatable.")]


@app.command("log")
def chaos_log(
    seed: Seed = 0, minutes: Minutes = 10, only: Only = None, as_json: Json = False
) -> None:
    """Appenders, projectors and subscribers under faults. Example: loomos chaos log --seed 7"""
    from loomos.cli.chaos.rounds import run_rounds, unknown_faults

    if unknown := unknown_faults(only or []):
        raise typer.BadParameter(f"no fault is called {unknown[0]!r}: see `loomos chaos faults`")
    story = Story(as_json)
    run_apart("chaos", partial(run_rounds, story=story, only=only or []), seed, minutes, story)


@app.command("cluster")
def chaos_cluster(
    seed: Seed = 0, minutes: Minutes = 3, only: Only = None, as_json: Json = False
) -> None:
    """Three brokers under appenders. Example: loomos chaos cluster --only "all killed\""""
    from loomos.cli.chaos.cluster_faults import FAULTS
    from loomos.cli.chaos.cluster_rounds import run_cluster

    if unknown := [name for name in only or [] if name not in FAULTS]:
        raise typer.BadParameter(f"no fault is called {unknown[0]!r}: one of {', '.join(FAULTS)}")
    story = Story(as_json)
    run_apart("chaos", partial(run_cluster, story=story, only=only or []), seed, minutes, story)


@app.command("faults")
def chaos_faults() -> None:
    """The classes of faults, and which of them cannot be had here. Example: loomos chaos faults"""
    from loomos.cli.chaos.rounds import NOT_HERE, described

    story = Story(as_json=False)
    for name, told in described():
        story.tell("fault", name=name, does=told)
    for name, why in NOT_HERE.items():
        story.tell("not run", name=name, why=why)
