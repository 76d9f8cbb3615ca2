"""`loomos events`: events of your own into the log, and how the log's events hang together."""

import typer

from loomos.cli import causality, events_schemas, search, subscriptions
from loomos.cli.events_append import append
from loomos.cli.events_append_file import append_file, batch

__all__ = ["app"]

app = typer.Typer(
    help="Events: append, search and count them; what led to them.", no_args_is_help=True
)
for command in (append, append_file, batch):
    app.command()(command)
causality.add_to(app)
search.add_to(app)
subscriptions.add_to(app)
app.add_typer(events_schemas.app, name="schemas")
