"""Addresses and secrets of places that are told: sealed at the door, opened only to tell them.

They go under a key of the organisation's own, bound to organisation and name: what is copied
elsewhere does not open, and no query opens it. Erasing the subject `notify-targets` ends them all.
"""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

from loom import personal
from loom.decider import Code, Resource
from loom.kit.authorize import Caller
from loom.kit.errors import Failure
from loom.kit.sealing import keys_away
from loom.log.keyring import Keyring
from loom.log.keystore import Unusable
from loom.log.seal import Spot, Unreadable, seal, unseal
from loom.v1 import loomdb_pb2 as pb
from loomos.loomdb.plugins import Refused, Undelivered, named

__all__ = ["SUBJECT", "opened", "sealed"]

SUBJECT = "notify-targets"


async def sealed(
    command: pb.CreateNotifyTargetRequest, caller: Caller, shell: Any
) -> pb.CreateNotifyTargetRequest:
    """The command with what it says in clear sealed; raises Failure."""
    command.sealed = command.hint = ""
    try:
        plugin = named(command.plugin)
    except Refused as error:
        raise Failure(Code.INVALID_ARGUMENT, f"plugin: {error}", "plugin") from error
    try:
        command.hint = plugin.check(command.address, command.secret, shell.settings.environ)
    except Refused as error:
        raise Failure(Code.INVALID_ARGUMENT, f"address: {error}", "address") from error
    organisation = command.organisation_id
    if not caller.may("CreateNotifyTarget", Resource("organisation", organisation)).allowed:
        # No key is made for who may not do it; deciding refuses it.
        return command
    content = json.dumps({"address": command.address, "secret": command.secret})
    spot = Spot(f"{organisation}/{command.name}", SUBJECT)
    try:
        keyring = shell.sealing.keyring
        command.sealed = await asyncio.to_thread(hide, keyring, organisation, spot, content)
    except Unusable as error:
        raise keys_away(error) from error
    return command


def hide(keyring: Keyring, organisation: str, spot: Spot, content: str) -> str:
    """The content under the organisation's newest key."""
    return seal(keyring.newest(organisation, SUBJECT), spot, content.encode())


async def opened(row: Mapping[str, Any], shell: Any) -> tuple[str, str]:
    """Address and secret of a place; raises Undelivered."""
    spot = Spot(f"{row['organisation_id']}/{row['name']}", SUBJECT)
    try:
        return await asyncio.to_thread(reveal, shell.sealing.keyring, spot, row["sealed"])
    except Unusable as error:
        raise Undelivered("no key can be had", True) from error
    except Unreadable as error:
        raise Undelivered("what is sealed of the place does not open", False) from error


def reveal(keyring: Keyring, spot: Spot, text: str) -> tuple[str, str]:
    """What was sealed."""
    key = keyring.get(personal.key_of(text) or "")
    if key is None:
        raise Undelivered("the key of the place was destroyed: name it anew", False)
    content = json.loads(unseal(key, spot, text))
    return content["address"], content["secret"]
