"""What a report on a data subject shows of what is sealed: his own, where its reader may.

1. Only the subject's own keys are used: who is handed the report learns nothing personal of others.
2. The log keeps digests of reports for ever. A report that shows something personal therefore holds
   a value that only the subject's key can make: when the key dies, nobody can test a guess.
"""

import asyncio
from typing import Any

from loom.decider import Resource
from loom.kit.authorize import Caller
from loom.kit.caller import Decision, Scope
from loom.kit.view import View

__all__ = ["blinding", "reader_of"]

READ = "ReadPersonal"
NOTHING = Scope(False, [], [])


class Himself:
    """A judge who lets nobody see more than his own."""

    view = View()

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        """No."""
        return Decision(False, ("himself",))

    def scope(self, principal: str, action: str) -> Scope:
        """Nobody's rows."""
        return NOTHING


def reader_of(caller: Caller, organisation: str, subject: str) -> Caller:
    """The subject, where the caller may see what is personal of him; else one who sees none."""
    scope = caller.scope(READ)
    own = caller.principal == f"user:{subject}"
    may = own or scope.all or organisation in scope.organisations
    return Caller(f"user:{subject}" if may else "", organisation, "user", Himself())


async def blinding(organisation: str, subject: str, content: str, shell: Any) -> str:
    """What makes a report's digest unguessable once the key is gone; "" where there is no key."""
    keyring = shell.sealing.keyring
    if not await asyncio.to_thread(keyring.store.living, organisation, subject):
        return ""
    made = await asyncio.to_thread(
        keyring.digest, organisation, subject, "report", content.encode()
    )
    return made.hex()
