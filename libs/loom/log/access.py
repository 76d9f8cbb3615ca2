"""Who may do what in Kafka: users and access rules, brought to the table of topics at every start.

1. Default deny: a topic is written only by the writers that `topics.TOPICS` names.
2. A rule that the table does not ask for is removed, so an old grant never outlives its reason.
3. Passwords cross the wire only salted and stretched; SCRAM never needs them in clear.
"""

import base64
import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any, ClassVar, NamedTuple

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.protocol.admin import (
    CreateAclsRequest_v1,
    DeleteAclsRequest_v1,
    DescribeAclsRequest_v1,
)
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import (
    CompactArray,
    CompactBytes,
    CompactString,
    Int8,
    Int16,
    Int32,
    Schema,
    TaggedFields,
)

from loom.log.topics import FEED_PREFIX, TOPICS, Bus, connection

__all__ = ["NODE_AGENT", "AccessFailed", "Rule", "apply", "rules"]

NODE_AGENT = "node-agent"
"""The principal that every node's certificate maps to."""
WINDOWS_PREFIX = "loomos-telemetry-"
"""Topics and groups that the telemetry service's windows make for themselves."""

# The protocol's numbers for resources, patterns, operations and permissions.
TOPIC, GROUP = 2, 3
ANY, LITERAL, PREFIXED = 1, 3, 4
ALL, READ, WRITE, DELETE, DESCRIBE_CONFIGS = 2, 3, 4, 6, 10
ALLOW = 3
SCRAM_SHA_512 = 2
ITERATIONS = 4096


class AccessFailed(Exception):
    """Kafka refused a user or a rule."""


class Rule(NamedTuple):
    """One access rule in the protocol's own numbers."""

    resource_type: int
    resource_name: str
    pattern: int
    principal: str
    host: str
    operation: int
    permission: int


def rules(readers: Iterable[str], feeds: Collection[str] = ()) -> set[Rule]:
    """All rules that may stand: writers by the table of topics, readers of everything, and for
    each organisation with a feed a reader of that topic alone."""

    def allow(user: str, kind: int, name: str, pattern: int, operation: int) -> Rule:
        return Rule(kind, name, pattern, f"User:{user}", "*", operation, ALLOW)

    return {
        *(
            allow(writer, TOPIC, topic.name, LITERAL, WRITE)
            for topic in TOPICS
            for writer in topic.writers
        ),
        *(allow(user, TOPIC, "loomos.", PREFIXED, READ) for user in readers),
        # Kafka has no narrower right for forgetting what is archived.
        *(allow("loomdb", TOPIC, topic.name, LITERAL, DELETE) for topic in TOPICS if topic.judged),
        # It tells appenders how many copies their events have.
        allow("data", TOPIC, "loomos.data", LITERAL, DESCRIBE_CONFIGS),
        allow("loomdb", TOPIC, FEED_PREFIX, PREFIXED, WRITE),
        *(allow(f"feed.{one}", TOPIC, f"{FEED_PREFIX}{one}", LITERAL, READ) for one in feeds),
        # No organisation's name has a dot: no other's groups begin so.
        *(allow(f"feed.{one}", GROUP, f"feed.{one}.", PREFIXED, READ) for one in feeds),
        allow("telemetry", TOPIC, WINDOWS_PREFIX, PREFIXED, ALL),
        allow("telemetry", GROUP, WINDOWS_PREFIX, PREFIXED, ALL),
    }


async def apply(
    bus: Bus, passwords: Mapping[str, str], readers: Iterable[str] = (), feeds: Collection[str] = ()
) -> None:
    """Give each user its password and make the standing rules those of the table.

    Where certificates name the users there are no passwords, and `readers` says who they are.
    """
    admin = AIOKafkaAdminClient(**connection(bus), client_id="loomos-access")
    await admin.start()
    try:
        await upsert(admin, passwords)
        wanted = rules({*passwords, *readers}, feeds)
        standing = await described(admin)
        if missing := sorted(wanted - standing):
            answer = await send(admin, Create(missing))
            refused([(code, message) for code, message in answer.creation_responses])
        if extra := sorted(standing - wanted):
            answer = await send(admin, Delete(extra))
            refused([(code, message) for code, message, _ in answer.filter_responses])
    finally:
        await admin.close()


async def send(admin: AIOKafkaAdminClient, request: Request) -> Any:
    # aiokafka's admin client has no call of its own for users and rules.
    return await admin._send_to_controller(request)


def refused(answers: list[tuple[int, str | None]]) -> None:
    """Raise for the first answer that is an error."""
    for code, message in answers:
        if code:
            raise AccessFailed(f"Kafka refused an access rule: {message or f'error {code}'}")


async def described(admin: AIOKafkaAdminClient) -> set[Rule]:
    """The rules that stand."""
    answer = await send(admin, Describe())
    refused([(answer.error_code, answer.error_message)])
    return {
        Rule(kind, name, pattern, *rule)
        for kind, name, pattern, found in answer.resources
        for rule in found
    }


async def upsert(admin: AIOKafkaAdminClient, passwords: Mapping[str, str]) -> None:
    """Give each user its SCRAM password."""
    if not passwords:
        return
    answer = await send(admin, Users(passwords))
    for user, code, message, _ in answer.results:
        if code:
            raise AccessFailed(f"Kafka refused user {user}: {message or f'error {code}'}")


def salted(password: str) -> tuple[bytes, bytes]:
    """A fresh salt and the password stretched with it, as SCRAM-SHA-512 stores them."""
    salt = base64.b64encode(os.urandom(24))
    return salt, hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ITERATIONS)


class UsersResponse(Response):
    """The broker's answer, one result a user."""

    API_KEY = 51  # pyright: ignore
    API_VERSION = 0  # pyright: ignore
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "results",
            CompactArray(
                ("user", CompactString("utf-8")),
                ("error_code", Int16),
                ("error_message", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class UsersStruct(RequestStruct):
    """AlterUserScramCredentials, version 0."""

    FLEXIBLE_VERSION: ClassVar[bool] = True
    API_KEY = 51
    API_VERSION = 0
    RESPONSE_TYPE = UsersResponse
    SCHEMA = Schema(
        (
            "deletions",
            CompactArray(
                ("name", CompactString("utf-8")), ("mechanism", Int8), ("tags", TaggedFields)
            ),
        ),
        (
            "upsertions",
            CompactArray(
                ("name", CompactString("utf-8")),
                ("mechanism", Int8),
                ("iterations", Int32),
                ("salt", CompactBytes),
                ("salted_password", CompactBytes),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class Users(Request[UsersStruct]):
    """Set the passwords of these users."""

    API_KEY = 51

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self.upsertions = [
            (user, SCRAM_SHA_512, ITERATIONS, *salted(password), {})
            for user, password in sorted(passwords.items())
        ]

    def build(self, request_struct_class: type[UsersStruct]) -> UsersStruct:
        """The request as it goes over the wire."""
        return request_struct_class([], self.upsertions, {})


class Describe(Request[DescribeAclsRequest_v1]):
    """Ask for every rule; an empty name in the protocol means any."""

    API_KEY = 29

    def build(self, request_struct_class: type[DescribeAclsRequest_v1]) -> DescribeAclsRequest_v1:
        """The request as it goes over the wire."""
        return request_struct_class(ANY, None, ANY, None, None, ANY, ANY)


class Create(Request[CreateAclsRequest_v1]):
    """Add these rules, in one request."""

    API_KEY = 30

    def __init__(self, wanted: list[Rule]) -> None:
        self.wanted = wanted

    def build(self, request_struct_class: type[CreateAclsRequest_v1]) -> CreateAclsRequest_v1:
        """The request as it goes over the wire."""
        return request_struct_class([tuple(rule) for rule in self.wanted])


class Delete(Request[DeleteAclsRequest_v1]):
    """Remove these rules, in one request."""

    API_KEY = 31

    def __init__(self, extra: list[Rule]) -> None:
        self.extra = extra

    def build(self, request_struct_class: type[DeleteAclsRequest_v1]) -> DeleteAclsRequest_v1:
        """The request as it goes over the wire."""
        return request_struct_class([tuple(rule) for rule in self.extra])
