"""Kafka's jars: fetched by name from the committed lock, compared with it at every start.

1. The lock names every jar with its sha256; nothing else enters the class path.
2. A jar enters the cache only after its digest was compared, by rename: no half-written jar is
   ever seen. A jar in the cache that differs stops the start and is named.
3. `python -m loomos.embedded.jars VERSION` prints a new lock. The broker and the logging bridge
   that its release carries are resolved one by one: together they would mix foreign versions.
4. The benches' tools have a lock of their own (`… VERSION tools`), used in front of the broker's.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from loomos.embedded.process import Unusable

__all__ = ["BROKER", "TOOLS", "Jar", "cache_folder", "classpath", "lock_digest", "locked"]

BROKER = "kafka.lock"
TOOLS = "kafka-tools.lock"
DOWNLOADS_AT_ONCE = 6
TOOL = "org.apache.kafka:kafka-tools"
BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl"


class Jar(NamedTuple):
    """One line of the lock."""

    coordinate: str
    """group:artifact:version"""
    sha256: str
    size_bytes: int

    @property
    def file(self) -> str:
        """The jar's name in the cache."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def cache_folder() -> Path:
    """Where downloads are kept for all homes of this user."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base.startswith("/") else Path.home() / ".cache") / "loomos"


def lock_file(name: str) -> Path:
    """A committed lock; beside this module stands a link to it, which a wheel resolves."""
    return Path(__file__).with_name(name)


def lock_digest() -> str:
    """What names the broker's set of jars."""
    return digest(lock_file(BROKER))


def locked(name: str = BROKER) -> tuple[Jar, ...]:
    """A lock's jars, in class path order."""
    lines = [line.split() for line in lock_file(name).read_text().splitlines()]
    return tuple(
        Jar(coordinate, digest, int(size))
        for coordinate, digest, size in (line for line in lines if line and line[0] != "#")
    )


def classpath(say: Callable[[str], None], name: str = BROKER) -> str:
    """The checked class path; fetches what is missing, telling size and number first."""
    folder = cache_folder() / "kafka"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Unusable(f"cache folder {folder} cannot be made: {error.strerror}") from error
    jars = locked(name)
    missing = [jar for jar in jars if not (folder / jar.file).exists()]
    if missing:
        mebibytes = sum(jar.size_bytes for jar in missing) / 2**20
        seconds = 20 if name == BROKER else 3
        count = f"{len(missing)} jar{'s' if len(missing) > 1 else ''}"
        say(f"fetching Kafka, once: {count}, {mebibytes:.0f} MiB, about {seconds} s")
        fetch(missing, folder)
    with ThreadPoolExecutor() as pool:
        for jar, found in zip(
            jars, pool.map(digest, (folder / jar.file for jar in jars)), strict=True
        ):
            if found != jar.sha256:
                raise Unusable(
                    f"checksum of {folder / jar.file} is {found}, the lock says {jar.sha256}: "
                    "delete the file to fetch it again"
                )
    return os.pathsep.join(str(folder / jar.file) for jar in jars)


def digest(path: Path) -> str:
    """The file's sha256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fetch(missing: list[Jar], folder: Path) -> None:
    """Download jars by name, check them and move them into the cache."""
    # Imported only here: a warm start must not pay for it.
    from jgo.maven import MavenContext

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        context = MavenContext(repo_cache=Path(scratch), timeout=60)

        def one(jar: Jar) -> None:
            group, artifact, version = jar.coordinate.split(":")
            try:
                path = context.project(group, artifact).at_version(version).artifact().resolve()
            except Exception as error:
                raise Unusable(
                    f"{jar.coordinate} cannot be fetched: {first_line(error)}"
                ) from error
            found = digest(path)
            if found != jar.sha256:
                raise Unusable(
                    f"checksum of the fetched {jar.coordinate} is {found}, "
                    f"the lock says {jar.sha256}"
                )
            path.replace(folder / jar.file)

        with ThreadPoolExecutor(DOWNLOADS_AT_ONCE) as pool:
            list(pool.map(one, missing))


def first_line(error: Exception) -> str:
    """An error's first line, or its class where it says nothing."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


def lock(version: str) -> str:
    """A new lock's text: every jar that this version of Kafka runs with."""
    import jgo

    found: dict[str, str] = {}
    broker = jgo.resolve(f"org.apache.kafka:kafka_2.13:{version}")
    logging_version = next(one.version for one in broker if one.artifactId == "log4j-core")
    bridge = next(
        one
        for one in jgo.resolve(f"{BRIDGE}:{logging_version}")
        if one.artifactId == BRIDGE.rpartition(":")[2]
    )
    for one in (*broker, bridge):
        path = one.resolve()
        coordinate = f"{one.groupId}:{one.artifactId}:{one.version}"
        found[coordinate] = f"{coordinate} {digest(path)} {path.stat().st_size}"
    head = "# Kafka's jars: group:artifact:version, sha256, bytes. Made by loomos.embedded.jars.\n"
    return head + "".join(f"{found[coordinate]}\n" for coordinate in sorted(found))


def lock_tools(version: str) -> str:
    """A new lock's text for the tools: their jar alone, for the broker's jars stand behind it.

    What else it declares is Connect's web server, which no performance tool loads.
    """
    import jgo

    coordinate = f"{TOOL}:{version}"
    one = next(one for one in jgo.resolve(coordinate) if one.artifactId == "kafka-tools")
    path = one.resolve()
    head = "# The benches' jar beside kafka.lock: group:artifact:version, sha256, bytes.\n"
    return head + f"{coordinate} {digest(path)} {path.stat().st_size}\n"


if __name__ == "__main__":
    made = lock_tools if sys.argv[2:] == ["tools"] else lock
    sys.stdout.write(made(sys.argv[1]))
