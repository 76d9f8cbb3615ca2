"""What is known of an organisation's reads of the audit trail.

    (nothing) ── AuditTrailRead ──▶ read n times

A trail only grows; nothing ends it.
"""

from dataclasses import dataclass

__all__ = ["Trail", "initial"]


@dataclass(slots=True)
class Trail:
    """One organisation's trail of reads."""

    shard: str
    """The organisation's id."""
    reads: int = 0


def initial(shard: str) -> Trail:
    """The state of an organisation that never read."""
    return Trail(shard)
