"""Who appends and reads: an administrator in each organisation, through the services' own doors.

1. Calls go over mTLS as the gateway's do, each under a person's own token, renewed in time.
"""

import asyncio
import secrets
import time
from collections import defaultdict
from collections.abc import AsyncIterator

from google.protobuf.message import Message

from loom.kit.config import Settings
from loom.kit.errors import Failure
from loom.kit.owners import client_over
from loom.store import Store
from loom.v1 import common_pb2, data_pb2, security_pb2
from loomos.cli.chaos.appends import KIND, ORGANISATIONS, SCHEMA
from loomos.cli.soak.load import UNTOLD

__all__ = ["People"]

NAME = "chaos"
FRESH_SECONDS = 150.0
PATIENCE_SECONDS = 120.0
CALL_SECONDS = 6.0
AGAIN_SECONDS = 0.2
LOGIN_SECONDS = 20.0
"""Checking a password is made to be slow, and slower on a busy machine."""


class People:
    """The callers of one run."""

    def __init__(self, settings: Settings) -> None:
        self.store = Store(settings.postgres, "gateway", connections_max=2)
        self.client = client_over(settings, self.store)
        self.password = secrets.token_urlsafe(24)
        self._tokens: dict[str, tuple[str, float]] = {}
        self._logins = defaultdict[str, asyncio.Lock](asyncio.Lock)

    async def close(self) -> None:
        """Call nobody any more."""
        await self.client.close()
        await self.store.close()

    async def found(self, token: str) -> None:
        """Enrol, make the organisations and their people, register the type of event."""
        await self.store.open()
        first = security_pb2.CreateFirstAdminRequest(
            organisation_id="platform", token=token, user_name=NAME, password=self.password
        )
        await self.patiently(first, "")
        for name in ORGANISATIONS:
            await self.patiently(
                security_pb2.CreateOrganisationRequest(organisation_id=name), "platform"
            )
            grant = security_pb2.RoleGrant(role=security_pb2.USER_ROLE_ADMIN, scope_id=name)
            user = security_pb2.CreateUserRequest(
                organisation_id=name, user_name=NAME, password=self.password, roles=[grant]
            )
            await self.patiently(user, "platform")
            schema = data_pb2.RegisterSchemaRequest(
                organisation_id=name, event_type=KIND, version="1.0.0", schema_json=SCHEMA
            )
            await self.patiently(schema, name)

    async def bearer(self, organisation: str) -> str:
        """A token that lives for a while yet."""
        if not organisation:
            return ""
        async with self._logins[organisation]:
            known, since = self._tokens.get(organisation, ("", 0.0))
            if not known or time.monotonic() - since > FRESH_SECONDS:
                login = security_pb2.LoginRequest(
                    organisation_id=organisation, user_name=NAME, password=self.password
                )
                answer = await self.client.tell(login, timeout_s=LOGIN_SECONDS)
                assert isinstance(answer, security_pb2.Token)
                known = answer.token
                self._tokens[organisation] = (known, time.monotonic())
            return known

    async def append(self, request: Message, command_id: str) -> common_pb2.Receipt:
        """A command of an appender, in the name of the organisation that it is for."""
        answer = await self.tell(request, request.organisation_id, command_id)  # pyright: ignore
        return answer if isinstance(answer, common_pb2.Receipt) else answer.receipt  # pyright: ignore

    async def tell(
        self, request: Message, organisation: str, command_id: str = "", timeout_s: float = 0
    ) -> Message:
        """A command; raises Failure."""
        bearer = await self.bearer(organisation)
        try:
            return await self.client.tell(
                request,
                command_id=command_id,
                bearer=bearer,
                timeout_s=timeout_s or CALL_SECONDS,
            )
        except Failure as failure:
            if failure.code == "UNAUTHENTICATED":
                # Where clocks jump, a token ends early or has not begun.
                self._tokens.pop(organisation, None)
            raise

    async def verdict(self, request: Message, organisation: str, seconds: float) -> str:
        """`OK`, or code and words of a refusal; asked again while nothing is known."""
        async with asyncio.timeout(seconds):
            while True:
                try:
                    await self.tell(request, organisation)
                except Failure as failure:
                    if failure.code not in UNTOLD:
                        return f"{failure.code}: {failure}"
                    await asyncio.sleep(AGAIN_SECONDS)
                else:
                    return "OK"

    async def patiently(
        self, request: Message, organisation: str, seconds: float = PATIENCE_SECONDS
    ) -> Message:
        """A command that must be answered in the end, whatever is broken now."""
        command_id = f"chaos-{secrets.token_hex(12)}"
        until = time.monotonic() + seconds
        while True:
            try:
                return await self.tell(request, organisation, command_id)
            except Failure:
                if time.monotonic() > until:
                    raise
                await asyncio.sleep(0.5)

    async def stream(self, request: Message, organisation: str) -> AsyncIterator[Message]:
        """The answers of a streaming RPC."""
        async for answer in self.client.stream(request, bearer=await self.bearer(organisation)):
            yield answer
