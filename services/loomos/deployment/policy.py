"""The auto-deploy policy: which registered versions go to staging by themselves (D7).

A change of the rule is a new version of the policy, never an edit of an old one's meaning.
"""

from collections.abc import Iterable
from typing import NamedTuple

from loom.v1 import deployment_pb2 as pb

__all__ = ["VERSION", "Judgement", "judge"]

VERSION = "auto-staging/1"
THRESHOLD_PPM = 800_000
REQUIRED = ("accuracy", "precision", "recall")


class Judgement(NamedTuple):
    """Whether a version is deployed, and why."""

    approved: bool
    reasons: tuple[str, ...]


def judge(metrics: Iterable[pb.ModelMetric]) -> Judgement:
    """Approve a version whose accuracy, precision and recall are each above 0.8."""
    measured = {metric.name: metric.value_ppm for metric in metrics}
    verdicts = [verdict(name, measured.get(name)) for name in REQUIRED]
    return Judgement(all(good for good, _ in verdicts), tuple(reason for _, reason in verdicts))


def verdict(name: str, value_ppm: int | None) -> tuple[bool, str]:
    """Whether one metric suffices, and the sentence that says so."""
    if value_ppm is None:
        return False, f"{name} was not measured"
    if value_ppm > THRESHOLD_PPM:
        return True, f"{name} {value_ppm} ppm is above {THRESHOLD_PPM} ppm"
    return False, f"{name} {value_ppm} ppm is not above {THRESHOLD_PPM} ppm"
