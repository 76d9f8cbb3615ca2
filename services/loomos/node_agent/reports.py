"""What a job says about itself over LOOMOS_REPORT, read with suspicion.

A report is one JSON object on one line:
  {"type": "metric", "name": "accuracy", "value": 0.93, "epoch": 3, "step": 1200}
  {"type": "progress", "epoch": 3, "step": 1200, "share": 0.25}
  {"type": "checkpoint", "name": "epoch-3", "epoch": 3, "step": 1200}
`epoch` and `step` may be left out.

1. Every field is checked for type and range; NaN and infinities are refused, and so is a field
   that is not known.
2. A bad line is one error and changes nothing else.
"""

import json
import math
import re
from typing import Any, NamedTuple

LINE_BYTES_MAX = 4096
COUNT_MAX = 2**53
METRIC_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]{0,127}")
CHECKPOINT_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class BadReport(ValueError):
    """A line is no report; says what was wrong."""


class Metric(NamedTuple):
    """One measured value."""

    name: str
    value: float
    epoch: int
    step: int


class Progress(NamedTuple):
    """How far the job is."""

    epoch: int
    step: int
    basis_points: int


class Checkpoint(NamedTuple):
    """A checkpoint was renamed into place."""

    name: str
    epoch: int
    step: int


Report = Metric | Progress | Checkpoint


def parse(line: bytes) -> Report:
    """The report in this line; raises BadReport."""
    if len(line) > LINE_BYTES_MAX:
        raise BadReport(f"the line has {len(line)} bytes; {LINE_BYTES_MAX} are allowed")
    try:
        given = json.loads(line, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadReport(f"not a JSON object: {error}") from error
    if not isinstance(given, dict):
        raise BadReport(f"want a JSON object, got {type(given).__name__}")
    kind = given.pop("type", None)
    epoch, step = _count(given, "epoch"), _count(given, "step")
    report: Report
    match kind:
        case "metric":
            report = Metric(_name(given, METRIC_NAME), _number(given, "value"), epoch, step)
        case "progress":
            report = Progress(epoch, step, _share(given))
        case "checkpoint":
            report = Checkpoint(_name(given, CHECKPOINT_NAME), epoch, step)
        case _:
            raise BadReport(f"type is {_shown(kind)}: want metric, progress or checkpoint")
    if given:
        raise BadReport(f"field {_shown(min(given))} is not known for a {kind}")
    return report


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not a number that can be recorded")


def _count(given: dict[str, Any], field: str) -> int:
    value = given.pop(field, 0)
    if type(value) is not int or not 0 <= value <= COUNT_MAX:
        raise BadReport(f"{field} is {_shown(value)}: want a whole number from 0 to {COUNT_MAX}")
    return value


def _number(given: dict[str, Any], field: str) -> float:
    value = given.pop(field, None)
    if type(value) not in (int, float):
        raise BadReport(f"{field} is {_shown(value)}: want a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise BadReport(f"{field} is {_shown(value)}: want a finite number")
    return number


def _share(given: dict[str, Any]) -> int:
    share = _number(given, "share") if "share" in given else 0.0
    if not 0 <= share <= 1:
        raise BadReport(f"share is {share}: want 0 to 1")
    return int(share * 10_000)


def _name(given: dict[str, Any], pattern: re.Pattern[str]) -> str:
    value = given.pop("name", None)
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise BadReport(f"name is {_shown(value)}: want the form {pattern.pattern}")
    return value


def _shown(value: object) -> str:
    return repr(value)[:80]
