"""`loomos chaos`: seeded faults against LoomDB as real processes, and what must hold after them.

1. Everything runs in a fresh folder and on loopback, and ends with the command; the folder goes
   where everything held, and stays, named, where something did not.
2. The seed chooses faults and commands; it is printed, so that a run can be repeated.
3. A class of faults that cannot be had on this machine is named as not run, never left out.
"""

import asyncio
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import structlog
import typer

from loomos.cli.chaos.story import Story
from loomos.cli.show import Json

__all__ = ["app"]

app = typer.Typer(help="Break LoomDB on purpose and check what it promises.", no_args_is_help=True)

INTERRUPTED = 130

Seed = Annotated[int, typer.Option(min=0, help="Chooses faults and commands; else drawn.")]
Minutes = Annotated[int, typer.Option(min=1, max=24 * 60, help="How long.")]
Only = Annotated[list[str] | None, typer.Option(help="This class of faults alone; repeatable.")]


@app.command("log")
def chaos_log(
    seed: Seed = 0, minutes: Minutes = 10, only: Only = None, as_json: Json = False
) -> None:
    """Appenders, projectors and subscribers under faults. Example: loomos chaos log --seed 7"""
    from loomos.cli.chaos.rounds import unknown_faults

    story = Story(as_json)
    if unknown := unknown_faults(only or []):
        raise typer.BadParameter(f"no fault is called {unknown[0]!r}: see `loomos chaos faults`")
    begin(story, seed, minutes, "log", only or [])


@app.command("cluster")
def chaos_cluster(
    seed: Seed = 0, minutes: Minutes = 3, only: Only = None, as_json: Json = False
) -> None:
    """Three brokers under appenders. Example: loomos chaos cluster --only "all killed\""""
    from loomos.cli.chaos.cluster_faults import FAULTS

    if unknown := [name for name in only or [] if name not in FAULTS]:
        raise typer.BadParameter(f"no fault is called {unknown[0]!r}: one of {', '.join(FAULTS)}")
    begin(Story(as_json), seed, minutes, "cluster", only or [])


@app.command("faults")
def chaos_faults() -> None:
    """The classes of faults, and which of them cannot be had here. Example: loomos chaos faults"""
    from loomos.cli.chaos.rounds import NOT_HERE, described

    story = Story(as_json=False)
    for name, told in described():
        story.tell("fault", name=name, does=told)
    for name, why in NOT_HERE.items():
        story.tell("not run", name=name, why=why)


def begin(story: Story, seed: int, minutes: int, kind: str, only: list[str]) -> None:
    """Run one of the two in a folder of its own; exit 1 where something did not hold."""
    # The processes' own logs lie in the folder; here only the story is told.
    logging.disable(logging.CRITICAL)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    seed = seed or random.SystemRandom().randrange(1, 2**31)
    folder = Path(tempfile.mkdtemp(prefix="loomos-chaos-"))
    story.tell("begin", seed=seed, minutes=minutes, folder=str(folder))
    asyncio.run(to_its_end(chosen(kind, folder, seed, minutes * 60, story, only), story, folder))
    shutil.rmtree(folder, ignore_errors=True)
    story.tell("held", seed=seed)


async def to_its_end(work: Coroutine[Any, Any, None], story: Story, folder: Path) -> None:
    """Say what broke as soon as nothing runs any more, and end at once.

    A signal ends the work in order, once: who is impatient does not make it leave things behind.
    """
    told: list[str] = []
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, end, task, told, number.name)
    try:
        await task
    except asyncio.CancelledError:
        if not told:
            raise
    except Exception as error:  # noqa: BLE001 - whatever broke is told
        if not told:
            lines = [line for line in traceback.format_exception(error) if "loomos" in line]
            story.tell("broken", why=lines_of(error), at=lines[-1:], folder=str(folder))
            leave(1)
    if told:
        shutil.rmtree(folder, ignore_errors=True)
        story.tell("ended", by=told[0], left="nothing")
        leave(INTERRUPTED)


def leave(status: int) -> None:
    """Processes and mounts are gone; a loop that waits for a broken line must not keep us."""
    sys.stdout.flush()
    os._exit(status)


def end(task: asyncio.Task[None], told: list[str], name: str) -> None:
    """Have the work end, where this is the first signal."""
    told.append(name)
    if len(told) == 1:
        task.cancel()


def chosen(
    kind: str, folder: Path, seed: int, seconds: float, story: Story, only: list[str]
) -> Coroutine[Any, Any, None]:
    """The work of one of the two commands."""
    if kind == "cluster":
        from loomos.cli.chaos.cluster_rounds import run_cluster

        return run_cluster(folder, seed, seconds, story, only)
    from loomos.cli.chaos.rounds import run_rounds

    return run_rounds(folder, seed, seconds, story, only)


def lines_of(error: BaseException) -> list[str]:
    """What went wrong, without the groups that wrap it."""
    if isinstance(error, BaseExceptionGroup):
        return [line for one in error.exceptions for line in lines_of(one)]
    return (str(error) or type(error).__name__).splitlines()
