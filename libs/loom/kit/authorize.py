"""Who calls: proved here, and judged in process on a view followed from security's log.

1. Identity comes from a certificate's SPIFFE URI or a signed token, never from anything else; a
   token, once shown, decides alone.
2. A view more than 5 s behind denies everything.
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable

import structlog

from loom.decider import Position, Resource
from loom.kit import token
from loom.kit.caller import ANONYMOUS, Caller, Decision, Scope
from loom.kit.config import Settings
from loom.kit.decisions import Decisions, Policies
from loom.kit.errors import Failure
from loom.kit.view import PLATFORM, View
from loom.log.judge import START, Base, Kind
from loom.log.reader import LogDiverged, Reader

__all__ = [
    "ANONYMOUS",
    "VIEW_STALE",
    "Authorizer",
    "Caller",
    "Decision",
    "Decisions",
    "Policies",
    "Scope",
]

VIEW_STALE = "view_stale"
"""The reason of a denial that is no verdict: the view is behind."""
TOPIC = "loomos.security"
STALE_SECONDS = 5.0
WAIT_SECONDS = 2.0
FIRST_READ_SECONDS = 60.0
RETRY_SECONDS = 1.0
WAIT_MS = 2000
SPIFFE = re.compile(r"spiffe://loomos/(service|node)/([a-z0-9](?:[a-z0-9-]{0,118}[a-z0-9])?)")


class Authorizer:
    """Follows security's log and answers from what it knows."""

    def __init__(self, settings: Settings, policies: Policies | None = None) -> None:
        self.settings = settings
        self.decisions = Decisions(policies or Policies.load(), View())
        self._fresh_at = dict.fromkeys(range(settings.partitions), float("-inf"))
        self._moved = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def view(self) -> View:
        """What is known of security's log."""
        return self.decisions.view

    async def start(self) -> None:
        """Follow, and return once the log was read to its end; raises Failure where it cannot."""
        self._tasks = [asyncio.create_task(self._follow(number)) for number in self._fresh_at]
        try:
            await self._until(lambda: not self.stale(), FIRST_READ_SECONDS)
        except TimeoutError as error:
            await self.stop()
            raise Failure(
                "UNAVAILABLE", f"{TOPIC} could not be read to its end: is Kafka up?"
            ) from error

    async def run(self) -> None:
        """Wait until following fails for good, which it does with a log that diverged."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Stop following; from then on everything is denied as stale."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stale(self) -> bool:
        """True where the view is more than 5 s behind, or was never at the log's end."""
        return time.monotonic() - min(self._fresh_at.values()) > STALE_SECONDS

    def may(self, principal: str, action: str, resource: Resource) -> Decision:
        """Whether the principal may; denies with VIEW_STALE while the view is behind."""
        if self.stale():
            return Decision(False, (VIEW_STALE,), self.decisions.policies.hash)
        return self.decisions.may(principal, action, resource)

    def scope(self, principal: str, action: str) -> Scope:
        """Whose rows the principal may see; nobody's while the view is behind."""
        return Scope(False, [], []) if self.stale() else self.decisions.scope(principal, action)

    def service_caller(self, name: str) -> Caller:
        """The caller that a service of this platform is to itself."""
        return Caller(f"service:{name}", PLATFORM, "service", self)

    async def authenticate(self, spiffe: str | None, bearer: str | None) -> Caller:
        """Who calls; raises Failure where what was shown proves nobody."""
        if bearer is not None:
            return await self._by_token(bearer)
        if spiffe is None:
            return Caller("", "", ANONYMOUS, self)
        shown = SPIFFE.fullmatch(spiffe)
        if shown is None:
            raise Failure("UNAUTHENTICATED", "the certificate names no service or node of ours")
        kind, name = shown.groups()
        if kind == "node" and not await self.soon(lambda: name in self.view.nodes):
            raise Failure("UNAUTHENTICATED", f"node {name!r} never joined: join it first")
        return Caller(f"{kind}:{name}", PLATFORM, kind, self)

    async def _by_token(self, bearer: str) -> Caller:
        text = bearer.removeprefix("Bearer ").strip()
        key_id = token.key_id_of(text)
        # The key's record may be on its way; asking for a key that never comes costs nobody else.
        await self.soon(lambda: key_id in self.view.signing_keys)
        claims = token.verify(text, self.view.signing_keys, time.time())
        if not await self.soon(lambda: self.view.has_reached(claims.position)):
            raise Failure(
                "UNAVAILABLE", "this instance has not heard of your token yet: retry shortly"
            )
        account = self.view.users.get(claims.user_id)
        if account is None or not account.active:
            raise token.refused("its user is suspended or not known")
        if (claims.position.incarnation, claims.position.offset) < account.tokens_from:
            raise token.refused("its user's credentials changed since: log in again")
        if claims.api_key_id:
            api_key = self.view.api_keys.get(claims.api_key_id)
            if api_key is None or api_key.revoked or api_key.user_id != claims.user_id:
                raise token.refused("its API key was revoked")
        return Caller(f"user:{claims.user_id}", claims.organisation_id, "user", self)

    async def reached(self, position: Position) -> bool:
        """Wait, bounded, until the view has folded this position."""
        return await self.soon(lambda: self.view.has_reached(position))

    async def soon(self, true: Callable[[], bool]) -> bool:
        """Wait, bounded, until the view makes this true."""
        if true():
            return True
        with contextlib.suppress(TimeoutError):
            await self._until(true, WAIT_SECONDS)
        return true()

    async def _until(self, true: Callable[[], bool], seconds: float) -> None:
        async with asyncio.timeout(seconds):
            while not true():
                moved = self._moved
                await moved.wait()

    async def _follow(self, partition: int) -> None:
        """Keep the view at the log's end; a broken connection is tried again, a lie is not."""
        base = START
        while True:
            reader = Reader(self.settings, TOPIC, partition, base, WAIT_MS)
            try:
                await reader.start()
                while True:
                    base = await self._read(reader, partition)
            except LogDiverged:
                raise
            except Exception as error:  # noqa: BLE001 - the client has many; staleness denies
                structlog.get_logger().warning("security's log is away", error=str(error))
                await asyncio.sleep(RETRY_SECONDS)
            finally:
                await reader.stop()

    async def _read(self, reader: Reader, partition: int) -> Base:
        for record in await reader.batch(WAIT_MS):
            if record.verdict.kind == Kind.EVENT and record.verdict.valid:
                self.view.evolve(reader.recorded(record))
        lag_s = reader.lag_s()
        if lag_s < STALE_SECONDS:
            self._fresh_at[partition] = time.monotonic() - lag_s
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        return reader.base
