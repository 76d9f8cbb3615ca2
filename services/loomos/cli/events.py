"""`loomos events`: the log's events, and how they hang together."""

import typer

from loomos.cli import causality

__all__ = ["app"]

app = typer.Typer(help="Events: what led to them, what they led to.", no_args_is_help=True)
causality.add_to(app)
