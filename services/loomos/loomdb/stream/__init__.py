"""LoomDB's streaming answers, by noun."""

from loomos.loomdb.stream.subscription import subscribe
from loomos.loomdb.stream.tail import tail_of
from loomos.loomdb.stream.tree import get_tree_file

__all__ = ["get_tree_file", "subscribe", "tail_of"]
