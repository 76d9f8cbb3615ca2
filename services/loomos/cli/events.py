"""`loomos events`: events of your own into the log, and how the log's events hang together."""

import typer

from loomos.cli import causality, events_append, events_schemas, search, subscriptions

__all__ = ["app"]

app = typer.Typer(
    help="Events: append, search and count them; what led to them.", no_args_is_help=True
)
events_append.add_to(app)
causality.add_to(app)
search.add_to(app)
subscriptions.add_to(app)
app.add_typer(events_schemas.app, name="schemas")
