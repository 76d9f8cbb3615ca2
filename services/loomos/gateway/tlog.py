"""The hash trees as C2SP tlog-tiles serves them: `/tlog/<topic>-<partition>/checkpoint` and tiles.

1. Whoever has an API key or a token of an auditor may read them; they hold digests, and no event.
2. A checkpoint is good for a second, a tile for ever; both stay out of shared caches, because the
   next reader has to show a key of his own.
3. Reading a bundle of leaves is recorded in the caller's organisation, as reading the trail is.
"""

import asyncio
import base64
import binascii
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any, cast

from fastapi import Request, Response
from google.protobuf.message import Message

from loom.kit.call import new_command_id
from loom.kit.client import Client
from loom.kit.errors import Failure
from loom.v1 import loomdb_pb2

__all__ = ["PATH", "organisation_in", "tree_file"]

PATH = "/tlog/{tree_id}/{path:path}"
ENTRIES = "tile/entries/"
PLATFORM = "platform"
CALL_SECONDS_MAX = 30.0
FOR_EVER = "private, max-age=31536000, immutable"
A_SECOND = "private, max-age=1, must-revalidate"


async def tree_file(request: Request, client: Client, bearer: str) -> Response:
    """The file that a path names; raises Failure."""
    tree_id, path = request.path_params["tree_id"], request.path_params["path"]
    if not bearer:
        raise Failure("UNAUTHENTICATED", "send Authorization: Bearer … or X-API-Key")
    if path.startswith(ENTRIES):
        found: Message = await client.tell(
            loomdb_pb2.ReadTreeEntriesRequest(
                organisation_id=organisation_in(bearer), tree_id=tree_id, path=path
            ),
            correlation_id=new_command_id(),
            bearer=bearer,
            timeout_s=CALL_SECONDS_MAX,
        )
    else:
        asked = loomdb_pb2.GetTreeFileRequest(tree_id=tree_id, path=path)
        # Any instance has the trees; the platform's shard names one.
        given = client.stream(asked, shard=PLATFORM, bearer=bearer, correlation_id=new_command_id())
        answers = cast("AsyncGenerator[Message]", given)
        async with asyncio.timeout(CALL_SECONDS_MAX), contextlib.aclosing(answers):
            found = await anext(answers)
    assert isinstance(found, loomdb_pb2.TreeFile)
    plain = path == "checkpoint"
    return Response(
        found.content,
        media_type="text/plain; charset=utf-8" if plain else "application/octet-stream",
        headers={"cache-control": FOR_EVER if found.immutable else A_SECOND},
    )


def organisation_in(bearer: str) -> str:
    """The organisation that a token claims: only where to ask; there the token is checked."""
    try:
        body = bearer.split(".")[1]
        claims: Any = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        return str(claims["organisation_id"])
    except (IndexError, KeyError, TypeError, ValueError, binascii.Error) as error:
        raise Failure("UNAUTHENTICATED", "the token is not one of this platform") from error
