"""Runs the peer `eventsourcing` in an environment of its own, on the bench's own Postgres."""

import importlib.util
import json
import os
import shutil
import subprocess
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

from loomos.cli.bench.ground import Ground
from loomos.embedded.postgres import psql
from loomos.embedded.process import Unusable

__all__ = ["PEER", "Peer", "run_peer"]

PEER = "eventsourcing"
MODULE = "loomos.cli.bench.eventsourcing_peer"
"""Never imported: what it imports is not installed here."""
SECONDS = 1800.0


class Peer(NamedTuple):
    """Events a second."""

    alone: float
    """Appended by one thread."""
    together: float
    """Appended by eight."""
    projected: float
    """Into one table, an event a transaction."""


def run_peer(ground: Ground, events: int) -> Peer:
    """Measure it in a database that it has for itself; raises Unusable."""
    script = importlib.util.find_spec(MODULE)
    if script is None or script.origin is None:
        raise Unusable(f"{MODULE} is not there")
    if shutil.which("uv") is None:
        raise Unusable("uv is not installed: the peer needs an environment of its own")
    admin = ground.stores.admin_dsn()
    psql(admin, "DROP DATABASE IF EXISTS peer")
    psql(admin, "CREATE DATABASE peer")
    parts = urlsplit(admin)
    environ = {
        "POSTGRES_DBNAME": "peer",
        "POSTGRES_HOST": parts.hostname or "",
        "POSTGRES_PORT": str(parts.port),
        "POSTGRES_USER": unquote(parts.username or ""),
        "POSTGRES_PASSWORD": unquote(parts.password or ""),
    }
    words = ["uv", "run", "--quiet", "--isolated", "--no-project", "--with", f"{PEER}[postgres]"]
    # The password goes by standard input: a process list shows arguments.
    result = subprocess.run(
        [*words, "python", "-I", script.origin, str(events)],
        input=json.dumps(environ),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
        env={name: value for name, value in os.environ.items() if not name.startswith("LOOMOS_")},
    )
    if result.returncode:
        lines = result.stderr.strip().splitlines() or ["it said nothing"]
        raise Unusable(f"the peer {PEER} failed: {lines[-1][:300]}")
    return Peer(**json.loads(result.stdout.splitlines()[-1]))
