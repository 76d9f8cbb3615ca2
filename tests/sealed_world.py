"""Services in one process on real stores, for tests of what is sealed; and where it might leak."""

import contextlib
import uuid
from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition
from tests import callers, shells
from tests.callers import eventually

from loom.kit.authorize import Caller, Scope
from loom.kit.service import Shell
from loom.kit.view import View
from loom.log.topics import connection
from loomos.embedded.postgres import psql
from loomos.loomdb.main import SERVICE as LOOMDB
from loomos.loomdb.seal import notarise

__all__ = ["CALLER", "Judge", "dump", "eventually", "raw_log", "serving", "tell"]


class Judge(callers.Judge):
    """One organisation's; what is personal shows only where it is said so."""

    view = View(organisations={"acme"})

    def __init__(self, organisation: str, personal: bool) -> None:
        super().__init__(organisation)
        self.personal = personal

    def scope(self, principal, action):
        allowed = self.personal or action != "ReadPersonal"
        return Scope(False, self.organisations if allowed else [], [])

    async def soon(self, true):
        return true()


CALLER = Caller("user:usr-acme-x", "acme", "user", Judge("acme", True))


@contextlib.asynccontextmanager
async def serving(service, settings) -> AsyncIterator[Shell]:
    """A service that knows one organisation; loomdb with its notary."""
    shell = Shell(service, settings)
    shell.authorizer = Judge("acme", True)
    shell.owner = f"test-{uuid.uuid4().hex}"
    async with shells.serving(shell, lambda: (notarise(shell),) if service is LOOMDB else ()):
        yield shell


async def tell(shell, request, personal=True, principal="user:usr-acme-x", command_id=""):
    who = Caller(principal, "acme", "user", Judge("acme", personal))
    given = type(request).FromString(request.SerializeToString())
    return await callers.tell(shell, given, who, command_id=command_id)


async def raw_log(bus) -> bytes:
    """Every byte of every record of every topic of the platform, decompressed."""
    consumer = AIOKafkaConsumer(**connection(bus), enable_auto_commit=False)
    await consumer.start()
    whole = []
    try:
        topics = [name for name in await consumer.topics() if name.startswith("loomos")]
        places = [TopicPartition(name, 0) for name in topics]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place in places:
            consumer.seek(place, 0)
        while any([await consumer.position(place) < ends[place] for place in places]):
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    whole += [record.key or b"", record.value or b""]
                    whole += [part for _, part in record.headers]
    finally:
        await consumer.stop()
    return b"\0".join(whole)


def dump(platform) -> str:
    """Every row of every table of every service, snapshots too."""
    tables = psql(
        platform.admin_dsn,
        "SELECT quote_ident(schemaname) || '.' || quote_ident(tablename) FROM pg_tables "
        "WHERE schemaname NOT IN ('pg_catalog', 'information_schema')",
    ).split()
    rows = [psql(platform.admin_dsn, f"SET bytea_output = escape; TABLE {one}") for one in tables]
    return "\n".join(rows)
