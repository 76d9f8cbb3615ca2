"""What a run tells: a line for people, or one JSON object a line for programs."""

import json
import time
from typing import Any

import typer

__all__ = ["Story"]


class Story:
    """Tells at once, with the seconds since the beginning."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.began = time.monotonic()

    def tell(self, what: str, **facts: Any) -> None:
        """One thing that happened."""
        seconds = round(time.monotonic() - self.began, 1)
        if self.as_json:
            typer.echo(json.dumps({"at_s": seconds, "what": what, **facts}))
            return
        shown = "; ".join(
            f"{name} {', '.join(map(str, value)) if isinstance(value, list) else value}"
            for name, value in facts.items()
        )
        typer.echo(f"{seconds:7.1f}  {what}: {shown}")
