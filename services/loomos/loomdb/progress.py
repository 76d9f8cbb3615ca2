"""How far a subscription's consumers are, as `positions` holds it: one text, moved in one step.

It is the cursor before which everything is settled, and, behind a semicolon, what was delivered in
vain behind that: `topic:partition:offset:attempts:reason`, joined by commas.
"""

from loomos.loomdb.cursor import Place

__all__ = ["Failures", "parse", "text_of"]

Failures = dict[tuple[Place, int], tuple[int, str]]
"""By place and offset of an event, how often it was delivered in vain, and why last."""


def text_of(cursor: str, failures: Failures) -> str:
    """The progress as text."""
    told = ",".join(
        f"{topic}:{partition}:{offset}:{attempts}:{reason}"
        for ((topic, partition), offset), (attempts, reason) in sorted(failures.items())
    )
    return f"{cursor};{told}" if told else cursor


def parse(text: str) -> tuple[str, Failures]:
    """The cursor and the failures that `text_of` wrote."""
    cursor, _, told = text.partition(";")
    failures: Failures = {}
    for part in told.split(",") if told else ():
        topic, partition, offset, attempts, reason = part.split(":")
        failures[(topic, int(partition)), int(offset)] = int(attempts), reason
    return cursor, failures
