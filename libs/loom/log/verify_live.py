"""Compares what the broker serves now with the signed trees."""

from aiokafka.errors import KafkaError

from .deletions import Deletions
from .reader import DELETED, LogAway, LogDiverged, Reader
from .segments import Damage, Stored
from .topics import Bus
from .verify import Inspection, Report, Sealed

__all__ = ["verify_live"]


async def verify_live(bus: Bus, sealed: Sealed, deletions: Deletions | None = None) -> Report:
    """Read a partition from its beginning to its present end and compare it with its tree."""
    inspection = Inspection(sealed, deletions)
    reader = Reader(bus, sealed.topic, sealed.partition)
    next_offset = 0
    try:
        end = await reader.start()
        while next_offset < end and not inspection.faults_in_tree:
            records = await reader.batch()
            for record in records:
                next_offset = record.offset + 1
                inspection.record(
                    Stored(
                        record.offset,
                        record.timestamp_ms,
                        record.key,
                        record.value,
                        record.headers,
                        mark=record.verdict.digest if record.verdict.reason == DELETED else b"",
                    )
                )
    except (KafkaError, LogAway, LogDiverged) as error:
        inspection.damage(Damage(next_offset, -1, f"from here on it cannot be read: {error}"))
    finally:
        await reader.stop()
    return inspection.report()
