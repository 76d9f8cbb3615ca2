"""Composes the `loomos` command from its parts; holds no command itself."""

import logging
import os
import sys
from typing import Annotated

import typer
from typer.exceptions import TyperException

from loom.kit.config import InvalidSetting
from loomos.cli import (
    admin,
    alerts,
    archive,
    audit,
    bench,
    chaos,
    costs,
    diff,
    docs,
    erasure,
    events,
    feeds,
    jobs,
    keys,
    letters,
    log,
    models,
    nodes,
    platform,
    quotas,
    replay,
    report,
    retention,
    session,
    soak,
    subscriptions,
    witness,
)
from loomos.cli.demo import story
from loomos.cli.show import err
from loomos.client.profile import Refused

__all__ = ["app", "main"]

REFUSED = 1
BAD_USAGE = 2
INTERRUPTED = 130

app = typer.Typer(
    name="loomos",
    help="The control plane of an AI-compute fleet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
platform.add_to(app)
story.add_to(app)
session.add_to(app)
admin.add_to(app)
nodes.add_to(app)
jobs.add_to(app)
models.add_to(app)
costs.add_to(app)
replay.add_to(app)
diff.add_to(app)
soak.add_to(app)
app.add_typer(chaos.app, name="chaos")
app.add_typer(quotas.quota, name="quota")
app.add_typer(keys.key, name="key")
letters.add_to(app)
erasure.add_to(app)
app.add_typer(audit.app, name="audit")
app.add_typer(archive.archive, name="archive")
app.add_typer(log.app, name="log")
app.add_typer(retention.retention, name="retention")
app.add_typer(retention.hold, name="hold")
app.add_typer(report.app, name="report")
app.add_typer(witness.app, name="witness")
app.add_typer(events.app, name="events")
app.add_typer(alerts.app, name="alerts")
app.add_typer(docs.app, name="docs")
app.add_typer(bench.app, name="bench")
app.add_typer(subscriptions.app, name="subscriptions")
app.add_typer(feeds.app, name="feeds")


@app.callback()
def choose(
    profile: Annotated[
        str, typer.Option(help="Whose API key to use; else LOOMOS_PROFILE, else the only one.")
    ] = "",
) -> None:
    """The control plane of an AI-compute fleet."""
    if profile:
        os.environ["LOOMOS_PROFILE"] = profile


def main() -> None:
    """Run the command line; what goes wrong is one line."""
    progress = logging.getLogger("loomos.client")
    progress.addHandler(logging.StreamHandler())
    progress.setLevel(logging.INFO)
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except Refused as refused:
        story = f" (story {refused.correlation_id})" if refused.correlation_id else ""
        err.print(f"refused: {refused}{story}", style="red", markup=False)
        sys.exit(REFUSED)
    except TyperException as error:
        err.print(error.format_message(), style="red", markup=False)
        sys.exit(BAD_USAGE)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except InvalidSetting as error:
        err.print(f"error: {error}", style="red", markup=False)
        sys.exit(BAD_USAGE)


if __name__ == "__main__":
    main()
