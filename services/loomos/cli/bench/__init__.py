"""`loomos bench NAME`: what this machine reaches, beside a peer on the same machine.

Every bench makes what it needs in a folder of its own and removes it; nothing of a running
platform is touched.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loomos.cli import show
from loomos.cli.bench.report import Report
from loomos.cli.show import Json

if TYPE_CHECKING:
    from pathlib import Path

    from loomos.cli.bench.fleet import Fleet
    from loomos.cli.bench.ground import Ground

__all__ = ["app"]

app = typer.Typer(help="Measure this machine beside a peer.", no_args_is_help=True)

Pairs = Annotated[int, typer.Option("--pairs", min=1, max=50, help="How often ours and theirs.")]
PAIRS = 5


@app.command("append")
def bench_append(as_json: Json = False, pairs: Pairs = PAIRS) -> None:
    """Confirmed events a second, and how long a caller waits."""
    # Slow to import, as all that follow, and no other command of `loomos` needs them.
    from loomos.cli.bench.beside import measure_all

    against_kafka(measure_all, as_json, pairs)


@app.command("batch")
def bench_batch(as_json: Json = False) -> None:
    """Events a second that outsiders append in batches of a thousand, on a whole platform."""
    from loomos.cli.bench.batch import measure

    on_platform(measure, as_json)


@app.command("replay")
def bench_replay(as_json: Json = False, pairs: Pairs = PAIRS) -> None:
    """How fast the log is folded into state and projected into Postgres."""
    from loomos.cli.bench.replay import measure

    against_kafka(measure, as_json, pairs)


@app.command("rebuild")
def bench_rebuild(
    as_json: Json = False,
    events: Annotated[
        int, typer.Option(min=1000, help="So many events, and ten times as many.")
    ] = 10_000,
) -> None:
    """Users' events into all read models that hold them. The bar's size: --events 100000."""
    from loomos.cli.bench.rebuild import measure

    against_kafka(measure, as_json, events)


@app.command("submit")
def bench_submit(as_json: Json = False) -> None:
    """From a request to the job's running process, on an idle platform."""
    from loomos.cli.bench.submit import measure

    on_platform(measure, as_json)


@app.command("prove")
def bench_prove(as_json: Json = False, pairs: Pairs = 3) -> None:
    """Leaves a second into the signed tree, and milliseconds a proof."""
    from loomos.cli.bench.prove import measure

    in_scratch(measure, as_json, pairs)


@app.command("verify")
def bench_verify(as_json: Json = False, pairs: Pairs = 3) -> None:
    """Events a second that a stranger verifies offline in an export."""
    from loomos.cli.bench.verify import measure

    in_scratch(measure, as_json, pairs)


@app.command("subscribe")
def bench_subscribe(as_json: Json = False) -> None:
    """From an append to fifty subscribers who have the event."""
    from loomos.cli.bench.subscribe import measure

    on_platform(measure, as_json)


@app.command("query")
def bench_query(
    as_json: Json = False,
    big: Annotated[bool, typer.Option("--big", help="Also with ten million events.")] = False,
) -> None:
    """Milliseconds that typical searches take, and how that grows with the log."""
    from loomos.cli.bench.query import measure

    in_scratch(lambda report, folder, _: measure(report, folder, big), as_json, 1)


@app.command("footprint")
def bench_footprint(as_json: Json = False) -> None:
    """What an idle platform takes: start-up, memory, CPU."""
    from loomos.cli.bench.footprint import measure

    on_platform(measure, as_json)


def against_kafka(
    measure: "Callable[[Report, Ground, int], Coroutine[Any, Any, None]]",
    as_json: bool,
    pairs: int,
) -> None:
    """Run a bench that needs the stores alone."""
    import uvloop

    from loomos.cli.bench.ground import ground
    from loomos.embedded.runner import collect_rarely

    collect_rarely()
    report = Report(as_json)
    runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
    with mendable(), ground(report.say) as made, runner:
        runner.run(measure(report, made, pairs))
    report.close()


def in_scratch(measure: "Callable[[Report, Path, int], None]", as_json: bool, pairs: int) -> None:
    """Run a bench that needs a folder and no store."""
    from loomos.cli.bench.ground import scratch

    report = Report(as_json)
    with mendable(), scratch() as folder:
        measure(report, folder, pairs)
    report.close()


def on_platform(measure: "Callable[[Report, Fleet], None]", as_json: bool) -> None:
    """Run a bench that needs the whole platform."""
    from loomos.cli.bench.fleet import fleet

    report = Report(as_json)
    with mendable(), fleet(report.say) as platform:
        measure(report, platform)
    report.close()


@contextmanager
def mendable() -> Iterator[None]:
    """What an operator can mend is one line and exit status 1."""
    from loomos.cli.demo.stage import NotHeld
    from loomos.embedded.process import Unusable

    try:
        yield
    except (Unusable, NotHeld) as error:
        show.err.print(f"error: {error}", style="red", markup=False)
        raise typer.Exit(1) from error
