"""LoomDB's streaming answers, by noun."""

from loomos.loomdb.stream.alert import watch_alerts
from loomos.loomdb.stream.consume import consume_subscription, settle_deliveries
from loomos.loomdb.stream.source import Source
from loomos.loomdb.stream.subscription import subscribe
from loomos.loomdb.stream.tail import tail_of
from loomos.loomdb.stream.tree import get_tree_file

__all__ = [
    "Source",
    "consume_subscription",
    "get_tree_file",
    "settle_deliveries",
    "subscribe",
    "tail_of",
    "watch_alerts",
]
