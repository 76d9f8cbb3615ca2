"""LoomDB's streaming answers, by noun."""

from loomos.loomdb.stream.tree import get_tree_file

__all__ = ["get_tree_file"]
