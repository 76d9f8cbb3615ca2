"""`loomos bench NAME`: what this machine reaches, beside a peer on the same machine.

Every bench makes what it needs in a folder of its own and removes it; nothing of a running
platform is touched.
"""

import asyncio
from typing import Annotated

import typer
import uvloop

from loomos.cli.bench.report import Report
from loomos.cli.show import Json

__all__ = ["app"]

app = typer.Typer(help="Measure this machine beside a peer.", no_args_is_help=True)

Pairs = Annotated[int, typer.Option("--pairs", min=1, max=50, help="How often ours and theirs.")]
PAIRS = 5


@app.command()
def append(as_json: Json = False, pairs: Pairs = PAIRS) -> None:
    """Confirmed events a second, and how long a caller waits."""
    # Slow to import, and no other command of `loomos` needs them.
    from loomos.cli.bench.append import measure
    from loomos.cli.bench.ground import ground

    report = Report(as_json)
    with ground(report.say) as made, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(measure(report, made, pairs))
    report.close()
