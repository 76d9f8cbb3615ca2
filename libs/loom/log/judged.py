"""A record as stored and judged; how Kafka's client hands records to a reader."""

from typing import Any, NamedTuple

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import PartitionRecords

from loom.log.judge import Base, Headers, Verdict

__all__ = ["Judged", "stored"]


class Judged(NamedTuple):
    """A record as stored, and what the judge says of it."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    verdict: Verdict

    @property
    def base(self) -> Base:
        """The base behind a record that closes its command."""
        stamp = self.verdict.stamp
        assert stamp is not None
        return Base(
            stamp.incarnation,
            self.offset + 1,
            stamp.epoch,
            stamp.claim,
            stamp.n,
            self.verdict.chain,
            self.timestamp_ms,
        )


def stored(key: bytes) -> bytes:
    """Given as a consumer's key deserializer: wants records as the client's decoder made them."""
    return key


# The client copies each record into a frozen dataclass of eleven fields, at more than it costs to
# decode it; its own decoder's record has all that a reader needs. Other consumers keep theirs.
_consumer_record = PartitionRecords._consumer_record


def _as_decoded(self: Any, tp: TopicPartition, record: Any) -> Any:
    return record if self._key_deserializer is stored else _consumer_record(self, tp, record)


PartitionRecords._consumer_record = _as_decoded
