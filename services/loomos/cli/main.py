"""Composes the `loomos` command from its parts; holds no command itself."""

import typer

from loomos.cli import audit, platform

__all__ = ["app", "main"]

app = typer.Typer(
    name="loomos",
    help="The control plane of an AI-compute fleet.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
platform.add_to(app)
app.add_typer(audit.app, name="audit")


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
