"""Whose call it is: a bearer token passed on, or an API key exchanged for a short one.

1. The gateway believes no one: services check the token; it only carries it.
2. An API key is kept as its SHA-256 beside the token got for it, until shortly before its end.
3. Strangers and guessers are slowed down by address; the books that this needs are bounded.
"""

import asyncio
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from google.protobuf.message import Message

from loom.kit.call import bearer_in
from loom.kit.errors import Failure
from loom.log.clock import now_us
from loom.v1 import security_pb2

__all__ = ["Identities", "Rates"]

KEY = re.compile(r"lk_([a-z0-9-]{1,96})_([A-Za-z0-9_-]{20,128})")
EXPIRY_MARGIN_US = 30 * 1_000_000
REFUSED_SECONDS = 5.0
KEPT_MAX = 10_000

Tell = Callable[[Message], Awaitable[Message]]
Value = TypeVar("Value")


class Rates:
    """A token bucket per address: so many at once, so many a second."""

    def __init__(self, burst: float, per_second: float) -> None:
        self.burst = burst
        self.per_second = per_second
        self.buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, address: str) -> None:
        """Take one; raises Failure RESOURCE_EXHAUSTED where none is left."""
        now = time.monotonic()
        left, since = self.buckets.pop(address, (self.burst, now))
        left = min(self.burst, left + (now - since) * self.per_second)
        self.buckets[address] = (max(0.0, left - 1), now)
        if len(self.buckets) > KEPT_MAX:
            self.buckets.popitem(last=False)
        if left < 1:
            raise Failure(
                "RESOURCE_EXHAUSTED",
                f"too many calls from {address}: wait {1 / self.per_second:.1f} s",
                reason="RATE_LIMITED",
            )


class Identities:
    """Turns a call's credentials into the token to pass on."""

    def __init__(self, tell: Tell) -> None:
        self.tell = tell
        self.tokens: OrderedDict[bytes, tuple[str, int]] = OrderedDict()
        self.refusals: OrderedDict[bytes, tuple[Failure, float]] = OrderedDict()
        self.pending: dict[bytes, asyncio.Future[str]] = {}
        self.guesses = Rates(burst=20, per_second=1)

    async def bearer(
        self, authorization: Sequence[str], api_key: Sequence[str], address: str
    ) -> str:
        """The token of a call, "" where it has no credentials; raises Failure UNAUTHENTICATED."""
        if len(authorization) + len(api_key) > 1:
            raise Failure("UNAUTHENTICATED", "send one Authorization or one X-API-Key header")
        if authorization:
            return bearer_in(authorization[0])
        if not api_key:
            return ""
        return await self.exchanged(api_key[0], address)

    async def exchanged(self, key: str, address: str) -> str:
        """The short token for an API key; one exchange at a time per key."""
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        token, expires_at_us = self.tokens.get(digest, ("", 0))
        if expires_at_us - EXPIRY_MARGIN_US > now_us():
            return token
        refusal, until = self.refusals.get(digest, (None, 0.0))
        if refusal is not None and time.monotonic() < until:
            self.guesses.take(address)
            raise refusal
        waiting = self.pending.get(digest)
        if waiting is not None:
            return await asyncio.shield(waiting)
        work = self.pending[digest] = asyncio.ensure_future(self.issue(key, digest, address))
        work.add_done_callback(lambda _: self.pending.pop(digest, None))
        return await asyncio.shield(work)

    async def issue(self, key: str, digest: bytes, address: str) -> str:
        """Have security mint a token for a key, and remember the outcome for a while."""
        form = KEY.fullmatch(key)
        if form is None:
            self.guesses.take(address)
            raise Failure("UNAUTHENTICATED", "the API key has not the form lk_<id>_<secret>")
        request = security_pb2.IssueTokenRequest(api_key_id=form.group(1), secret=form.group(2))
        try:
            answer = await self.tell(request)
        except Failure as failure:
            if failure.code in ("UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"):
                raise
            self.guesses.take(address)
            refusal = Failure("UNAUTHENTICATED", "the API key is not valid")
            keep(self.refusals, digest, (refusal, time.monotonic() + REFUSED_SECONDS))
            raise refusal from failure
        assert isinstance(answer, security_pb2.Token)
        keep(self.tokens, digest, (answer.token, answer.expires_at_us))
        return answer.token


def keep(book: OrderedDict[bytes, Value], key: bytes, value: Value) -> None:
    """Remember a value; the oldest goes when the book is full."""
    book[key] = value
    book.move_to_end(key)
    if len(book) > KEPT_MAX:
        book.popitem(last=False)
