"""What an event of security causes outside: the used enrolment token is forgotten for good."""

import json
from typing import Any

from loom.decider import Command, Recorded
from loom.kit.authority import write_secret
from loom.v1 import security_pb2 as pb

__all__ = ["effect"]


async def effect(record: Recorded, shell: Any) -> list[Command]:
    """Tell the supervisor, through the credentials folder, to make no further token."""
    if isinstance(record.event, pb.EnrolmentCompleted):
        write_secret(shell.settings.credentials / "enrolment.json", json.dumps({"used": True}))
        (shell.settings.home / "enrolment.token").unlink(missing_ok=True)
    return []
