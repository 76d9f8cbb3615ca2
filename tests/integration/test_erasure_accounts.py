"""What is personal of the platform's own users: sealed, found by a digest, erasable."""

import uuid

import pytest
from tests.sealed_world import CALLER, dump, eventually, raw_log, serving, tell

from loom.decider import Rejected
from loom.kit.errors import Failure
from loom.kit.sealing import ERASED
from loom.v1 import security_pb2
from loomos.security import query
from loomos.security.main import SERVICE as SECURITY


async def test_a_users_name_is_sealed_found_by_its_digest_and_erasable(
    fresh_log, fresh_database, platform, settings
):
    name, reason = f"ada-{uuid.uuid4().hex[:6]}", "left-her-badge-at-the-station"
    async with serving(SECURITY, settings("security")) as shell:
        await tell(shell, security_pb2.CreateOrganisationRequest(organisation_id="acme"))
        making = security_pb2.CreateUserRequest(organisation_id="acme", user_name=name)
        made = await tell(shell, making)
        with pytest.raises(Failure, match=r"user name '\[personal\]' is taken"):
            await tell(shell, making)
        with pytest.raises(Rejected, match="'nowhere' is not known"):
            await tell(
                shell, security_pb2.CreateUserRequest(organisation_id="nowhere", user_name=name)
            )
        await tell(shell, security_pb2.SuspendUserRequest(user_id=made.id, reason=reason))

        async def shown():
            request = security_pb2.GetUserRequest(user_id=made.id)
            async with shell.db() as db:
                found = await query.get_user(request, CALLER, db)
            return await shell.sealing.open(found, CALLER) if found.status_reason else None

        user = await eventually(shown)
        assert (user.user_name, user.status_reason) == (name, reason)
        log, rows = await raw_log(platform.administrator), dump(platform)
        assert made.id.encode() in log and made.id in rows
        for word in (name, reason):
            assert word.encode() not in log and word not in rows
        assert not list(platform.home.path.glob("keys/data/*/*nowhere*"))
        shell.sealing.keyring.destroy("acme", made.id, "event-1")
        user = await shown()
        assert (user.user_name, user.status_reason) == (ERASED, ERASED)
