"""A login is judged by all that the log holds, however late the tables are."""

import asyncio

import pytest
from tests.sealed_world import CALLER, serving, tell

from loom.decider import Rejected
from loom.v1 import security_pb2
from loomos.security import door
from loomos.security.main import SERVICE as SECURITY

PASSWORD = "correct-horse-battery-9"


async def test_who_was_created_a_moment_ago_logs_in_while_the_tables_lag(
    fresh_log, fresh_database, settings
):
    async with serving(SECURITY, settings("security")) as shell:
        await tell(shell, security_pb2.CreateOrganisationRequest(organisation_id="acme"))
        async with shell.store.connection() as blocker:
            # As slow as a machine that has just started everything: nothing is projected.
            await blocker.execute("SELECT * FROM positions FOR UPDATE")
            making = security_pb2.CreateUserRequest(
                organisation_id="acme", user_name="eve", password=PASSWORD
            )
            made = await tell(shell, making)
            request = security_pb2.LoginRequest(
                organisation_id="acme", user_name="eve", password=PASSWORD
            )
            login = asyncio.create_task(door.prepare(request, CALLER, shell))
            await asyncio.sleep(1.0)
            assert not login.done()
        assert (await login).user_id == made.id
        request.password = "not-her-password-1"
        with pytest.raises(Rejected, match="is wrong"):
            await door.prepare(request, CALLER, shell)
