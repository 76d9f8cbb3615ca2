"""Fixtures: a real Kafka and a real Postgres, started once a session and only when asked for.

1. An address in the environment wins (LOOMOS_TEST_KAFKA with LOOMOS_TEST_KAFKA_PASSWORD of its
   `admin`, LOOMOS_TEST_POSTGRES with an administrator's DSN); else both are started as plain
   processes in a temporary folder. What cannot start fails the test that wants it: nothing is
   skipped in silence.
2. Both are those of `loomos up`: same listeners, users, rights, roles. All of it ends with pytest.
3. Tests of pure code (tests/unit, tests/property) have no network.
"""

import asyncio
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_socket
from aiokafka.admin import AIOKafkaAdminClient

from loom.kit.authority import Authority, write_secret
from loom.kit.config import Settings
from loom.log import topics
from loomos.embedded import postgres as postgres_module
from loomos.embedded.home import Home
from loomos.embedded.services import ALL
from loomos.embedded.stores import Stores

PURE = ("tests/unit/", "tests/property/")


def apart(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a loop of its own, also while the test's loop runs."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            asyncio.run(work)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failed:
        raise failed[0]


@dataclass
class Platform:
    """What a test may know of the session's stores."""

    home: Home
    stores: Stores
    authority: Authority

    @property
    def bootstrap(self) -> str:
        """Kafka's listener for services."""
        return self.stores.bootstrap

    @property
    def administrator(self) -> topics.Bus:
        """The way into Kafka with every right."""
        return self.stores.administrator()

    @property
    def admin_dsn(self) -> str:
        """The way into the server with every right, its database `loomos`."""
        head, _, _ = self.stores.admin_dsn().rpartition("/")
        return f"{head}/{postgres_module.DATABASE}"

    def environ(self, service: str, **more: str) -> dict[str, str]:
        """The variables of a service's process."""
        return {
            "LOOMOS_HOME": str(self.home.path),
            "LOOMOS_KAFKA": self.bootstrap,
            "LOOMOS_CREDENTIALS": str(self.home.credentials / service),
            **more,
        }

    def settings(self, service: str, **more: str) -> Settings:
        """The settings of a service's process; `more` are further LOOMOS_* variables."""
        return Settings.load(service, self.environ(service, **more))


@pytest.fixture(scope="session")
def platform() -> Iterator[Platform]:
    """Both stores with every service's users, roles, rights and topics."""
    folder = Path(tempfile.mkdtemp(prefix="loomos-test-"))
    environ = {
        f"LOOMOS_{name}": given
        for name in ("KAFKA", "POSTGRES")
        if (given := os.environ.get(f"LOOMOS_TEST_{name}"))
    }
    home = Home.open(folder)
    if "LOOMOS_KAFKA" in environ:
        admin = home.credentials / "admin"
        admin.mkdir(mode=0o700)
        password = os.environ["LOOMOS_TEST_KAFKA_PASSWORD"]
        write_secret(admin / "kafka.user", f"admin\n{password}\n")
    stores = Stores(home, environ)
    try:
        stores.launch(print)
        stores.wait()
        stores.provision(ALL)
        yield Platform(home, stores, stores.authority)
    finally:
        stores.stop()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def kafka(platform: Platform) -> Platform:
    """Kafka, with the topics of the platform; one log for the whole session."""
    return platform


@pytest.fixture(scope="session")
def postgres(platform: Platform) -> Platform:
    """Postgres, with a role and a schema for every service."""
    return platform


@pytest.fixture
def settings(platform: Platform) -> Callable[..., Settings]:
    """`settings("scheduler", LOOMOS_PARTITIONS="1")`: what that service's process would read."""
    return platform.settings


def empty_log(platform: Platform) -> None:
    """Delete and make every topic anew; the trees over the old ones go too."""
    shutil.rmtree(platform.home.path / "trees", ignore_errors=True)

    async def wipe() -> None:
        bus = platform.administrator
        admin = AIOKafkaAdminClient(**topics.connection(bus))
        await admin.start()
        try:
            names = [topic.name for topic in topics.TOPICS]
            await admin.delete_topics(names)
            while set(names) & set(await admin.list_topics()):
                await asyncio.sleep(0.02)
            await topics.ensure(bus)
            while not set(names) <= set(await admin.list_topics()):
                await asyncio.sleep(0.02)
        finally:
            await admin.close()

    apart(wipe())


def empty_database(platform: Platform) -> None:
    """Drop and make every service's schema anew."""
    schemas = ["loom", *(name.replace("-", "_") for name in ALL)]
    drop = "".join(f"DROP SCHEMA IF EXISTS {schema} CASCADE;\n" for schema in schemas)
    postgres_module.psql(platform.admin_dsn, "SET client_min_messages = warning;\n" + drop)
    passwords = {service: platform.stores.database_password(service) for service in ALL}
    postgres_module.provision(platform.stores.admin_dsn(), passwords)


@pytest.fixture
def fresh_log(platform: Platform) -> Platform:
    """Kafka with empty topics: everything an earlier test wrote is gone."""
    empty_log(platform)
    return platform


@pytest.fixture
def fresh_database(platform: Platform) -> Platform:
    """Postgres with empty schemas: every table an earlier test made is gone."""
    empty_database(platform)
    return platform


@pytest.fixture(scope="module")
def module_platform(platform: Platform) -> Platform:
    """Both stores empty, once for all tests of a module."""
    empty_log(platform)
    empty_database(platform)
    return platform


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a store by the fixtures it asks for."""
    for item in items:
        if "platform" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.bus)
            item.add_marker(pytest.mark.db)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Close the network to tests of pure code."""
    if item.nodeid.startswith(PURE):
        pytest_socket.disable_socket(allow_unix_socket=True)


def pytest_runtest_teardown() -> None:
    """Open it again for the next test."""
    pytest_socket.enable_socket()
