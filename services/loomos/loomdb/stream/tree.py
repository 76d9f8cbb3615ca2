"""Streams the files of a tree: digests only, so that reading them leaves no record."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from loom.decider import Code, Rejected
from loom.kit.authorize import Caller
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.seal import trees_of

__all__ = ["get_tree_file"]


async def get_tree_file(
    request: pb.GetTreeFileRequest, caller: Caller, shell: Any
) -> AsyncIterator[pb.TreeFile]:
    """A checkpoint or a tile of hashes."""
    if request.path.startswith("tile/entries/"):
        raise Rejected(Code.INVALID_ARGUMENT, "leaves are read by ReadTreeEntries", "path")
    yield await asyncio.to_thread(trees_of(shell).file, request.tree_id, request.path)
