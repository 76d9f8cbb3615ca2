"""How high events are classified; pure, so that whatever reads or projects them says the same."""

from collections.abc import Mapping
from typing import Any

__all__ = ["CLASSES", "OPEN", "rank_of", "users_rank"]

CLASSES = ("public", "internal", "confidential", "restricted")
OPEN = CLASSES.index("internal")
RESTRICTED = CLASSES.index("restricted")


def rank_of(word: str) -> int:
    """How high a word classifies; a word of somebody's own, as `phi`, like the highest."""
    if not word:
        return OPEN
    word = word.lower()
    return CLASSES.index(word) if word in CLASSES else RESTRICTED


def users_rank(security: Mapping[str, Any]) -> int:
    """How a user's event is classified, by what its appender said of it."""
    said = [str(security.get(name, "")) for name in ("data_classification", "access_level")]
    return max(rank_of(word) for word in said)
