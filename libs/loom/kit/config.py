"""A process's settings: environment over files, read once, frozen.

1. A variable wins over a file; files are the credentials folder and the supervisor's state file.
2. Every bad value is one line that names the variable, shows the value and says what is wanted.
3. No key or password has a default, and none shows in `repr`.
"""

import ipaddress
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["InvalidSetting", "Settings"]

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62})")
LEVELS = ("debug", "info", "warning", "error")
SECURITY = ("SASL_PLAINTEXT", "SASL_SSL", "SSL")
PARTITIONS_MAX = 1024


class InvalidSetting(Exception):
    """A setting cannot be used; the message is the one line that an operator reads."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What one process must know before it starts; `load` checks every value."""

    service: str
    home: Path
    credentials: Path
    """Folder with `tls.crt tls.key ca.crt kafka.user postgres.dsn archive.key`; files may be
    renewed in it."""
    kafka: str = ""
    """Bootstrap servers, `host:port` joined by commas; empty while no broker is known."""
    kafka_security: str = "SASL_PLAINTEXT"
    kafka_user: str = ""
    kafka_password: str = field(default="", repr=False)
    postgres: str = field(default="", repr=False)
    """DSN of the service's own role; empty while no database is known."""
    listen: str = "127.0.0.1:0"
    metrics_listen: str = "127.0.0.1:0"
    gateway_listen: str = "127.0.0.1:0"
    archive: str = ""
    """Where archived log lies: a folder, or `s3://bucket/prefix`; empty means nowhere."""
    archive_endpoint: str = ""
    """Where an S3 server other than the default one listens."""
    archive_login: tuple[str, str] = field(default=("", ""), repr=False)
    partitions: int = 1
    cluster: str = "local"
    otlp: str = ""
    """Endpoint that traces are exported to; empty means that none are."""
    log_level: str = "info"
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables that were given; an edge reads its own from here, never from `os.environ`."""

    @classmethod
    def load(cls, service: str, environ: Mapping[str, str] = os.environ) -> "Settings":
        """The settings of a service; raises InvalidSetting about the first bad value."""
        given = {key: value for key, value in environ.items() if key.startswith("LOOMOS_")}
        if not NAME.fullmatch(service):
            raise InvalidSetting(f"service is {service!r}: want a name such as 'scheduler'")
        home = folder("LOOMOS_HOME", given.get("LOOMOS_HOME", ""), default_home(environ))
        credentials = folder(
            "LOOMOS_CREDENTIALS",
            given.get("LOOMOS_CREDENTIALS", ""),
            home / "credentials" / service,
        )
        state = supervised(home)
        kafka = addresses("LOOMOS_KAFKA", given.get("LOOMOS_KAFKA") or state_kafka(state, home))
        user, password = login(credentials / "kafka.user")
        return cls(
            service=service,
            home=home,
            credentials=credentials,
            kafka=kafka,
            kafka_security=security(given.get("LOOMOS_KAFKA_SECURITY", ""), kafka),
            kafka_user=user,
            kafka_password=password,
            postgres=dsn(given.get("LOOMOS_POSTGRES", ""), credentials / "postgres.dsn"),
            listen=address("LOOMOS_LISTEN", given),
            metrics_listen=address("LOOMOS_METRICS_LISTEN", given),
            gateway_listen=address("LOOMOS_GATEWAY_LISTEN", given, given.get("LOOMOS_LISTEN", "")),
            archive=storage(given.get("LOOMOS_ARCHIVE", ""), home / "archive"),
            archive_endpoint=endpoint(
                "LOOMOS_ARCHIVE_ENDPOINT", given.get("LOOMOS_ARCHIVE_ENDPOINT", "")
            ),
            archive_login=login(credentials / "archive.key")
            if (credentials / "archive.key").exists()
            else login(home / "credentials" / "archive.key"),
            partitions=whole("LOOMOS_PARTITIONS", given, 1, 1, PARTITIONS_MAX),
            cluster=matched("LOOMOS_CLUSTER", given.get("LOOMOS_CLUSTER", "local"), NAME),
            otlp=endpoint("LOOMOS_OTLP", given.get("LOOMOS_OTLP", "")),
            log_level=chosen("LOOMOS_LOG_LEVEL", given.get("LOOMOS_LOG_LEVEL", "info"), LEVELS),
            environ=given,
        )

    @property
    def tls_certificate(self) -> Path:
        """The leaf certificate, PEM; renewed in place."""
        return self.credentials / "tls.crt"

    @property
    def tls_key(self) -> Path:
        """The leaf's private key, PEM."""
        return self.credentials / "tls.key"

    @property
    def ca_certificate(self) -> Path:
        """The certificates of the authority that peers must chain to, PEM."""
        return self.credentials / "ca.crt"

    def address_of(self, service: str) -> str:
        """Where the supervisor says that a service listens now, or ""."""
        found = (supervised(self.home).get("services") or {}).get(service) or {}
        return str(found.get("address", ""))


def default_home(environ: Mapping[str, str]) -> Path:
    """Where state lies when LOOMOS_HOME is not given."""
    base = environ.get("XDG_STATE_HOME", "")
    if not base.startswith("/"):
        base = str(Path(environ.get("HOME") or "~").expanduser() / ".local" / "state")
    return Path(base) / "loomos"


def folder(variable: str, value: str, default: Path) -> Path:
    """An absolute path without parent steps."""
    if not value:
        return default
    if "\0" in value or "\n" in value:
        raise InvalidSetting(f"{variable} is {value!r}: want a path without control characters")
    path = Path(value).expanduser()
    return path if path.is_absolute() else Path.cwd() / path


def supervised(home: Path) -> dict[str, Any]:
    """What the supervisor of this home wrote about its processes; empty where none ran."""
    path = home / "state.json"
    try:
        state = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InvalidSetting(f"LOOMOS_HOME: {path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise InvalidSetting(f"LOOMOS_HOME: {path} is not JSON: {error}") from error
    if not isinstance(state, dict) or state.get("version") != 1:
        version = state.get("version") if isinstance(state, dict) else state
        raise InvalidSetting(f"LOOMOS_HOME: {path} has version {version!r}: want 1")
    return state


def state_kafka(state: Mapping[str, Any], home: Path) -> str:
    """The supervised broker's bootstrap address, or ""."""
    kafka = state.get("kafka") or {}
    bootstrap = kafka.get("bootstrap", "") if isinstance(kafka, dict) else kafka
    if not isinstance(bootstrap, str):
        raise InvalidSetting(f"LOOMOS_HOME: {home}/state.json names no Kafka address")
    return bootstrap


def addresses(variable: str, value: str) -> str:
    """A list of `host:port`, none of them with port 0."""
    for part in filter(None, value.split(",")):
        if host_port(variable, part)[1] == 0:
            raise InvalidSetting(f"{variable} is {value!r}: port 0 cannot be connected to")
    return value


def address(variable: str, given: Mapping[str, str], default: str = "") -> str:
    """A `host:port` to listen on; port 0 lets the system choose."""
    value = given.get(variable) or default or "127.0.0.1:0"
    host_port(variable, value)
    return value


def host_port(variable: str, value: str) -> tuple[str, int]:
    """The two halves of an address; IPv6 stands in brackets."""
    host, _, port = value.rpartition(":")
    if not re.fullmatch(r"[A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\]", host):
        raise InvalidSetting(f"{variable} is {value!r}: want host:port")
    if not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise InvalidSetting(f"{variable} is {value!r}: the port must be 0 to 65535")
    return host, int(port)


def security(value: str, kafka: str) -> str:
    """The Kafka listener's protocol; passwords cross a network only inside TLS."""
    local = all(loopback(part.rpartition(":")[0]) for part in filter(None, kafka.split(",")))
    if not value:
        return "SASL_PLAINTEXT" if local else "SSL"
    chosen("LOOMOS_KAFKA_SECURITY", value, SECURITY)
    if value == "SASL_PLAINTEXT" and not local:
        raise InvalidSetting(
            f"LOOMOS_KAFKA_SECURITY is {value!r} but {kafka} is not on loopback: want SASL_SSL"
        )
    return value


def loopback(host: str) -> bool:
    """True where the host is this machine and no other."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def login(path: Path) -> tuple[str, str]:
    """User and password from the file's two lines; empty where there is no such file."""
    text = contents("LOOMOS_CREDENTIALS", path)
    if not text:
        return "", ""
    lines = text.splitlines()
    if len(lines) != 2 or not all(lines):
        raise InvalidSetting(f"LOOMOS_CREDENTIALS: {path} must hold a user and a password line")
    return lines[0], lines[1]


def dsn(value: str, path: Path) -> str:
    """The database's DSN from the variable, else from the credentials folder."""
    text = value or contents("LOOMOS_CREDENTIALS", path).strip()
    source = "LOOMOS_POSTGRES" if value else f"LOOMOS_CREDENTIALS: {path}"
    if text and not (text.startswith(("postgresql://", "postgres://")) or "=" in text):
        raise InvalidSetting(f"{source} is no DSN: want postgresql://… or key=value pairs")
    return text


def contents(variable: str, path: Path) -> str:
    """A small text file, or "" where there is none."""
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{variable}: {path} cannot be read: {error}") from error


def storage(value: str, default: Path) -> str:
    """Where archived log lies: an absolute folder, or a bucket."""
    if value and not re.fullmatch(r"(s3://[a-z0-9][a-z0-9.-]+(/[^\s]*)?|/[^\0\n]*)", value):
        raise InvalidSetting(
            f"LOOMOS_ARCHIVE is {value!r}: want an absolute folder or s3://bucket/prefix"
        )
    return value or str(default)


def whole(variable: str, given: Mapping[str, str], default: int, least: int, most: int) -> int:
    """A whole number between two bounds."""
    value = given.get(variable, str(default))
    if not re.fullmatch(r"[0-9]{1,15}", value) or not least <= int(value) <= most:
        raise InvalidSetting(f"{variable} is {value!r}: want a whole number, {least} to {most}")
    return int(value)


def matched(variable: str, value: str, pattern: re.Pattern[str]) -> str:
    """A value of the pattern's form."""
    if not pattern.fullmatch(value):
        raise InvalidSetting(f"{variable} is {value!r}: want the form {pattern.pattern}")
    return value


def chosen(variable: str, value: str, choices: tuple[str, ...]) -> str:
    """One of the choices."""
    if value not in choices:
        raise InvalidSetting(f"{variable} is {value!r}: want one of {', '.join(choices)}")
    return value


def endpoint(variable: str, value: str) -> str:
    """An http or https address, or ""."""
    if value and not re.fullmatch(r"https?://[^\s/]+(/\S*)?", value):
        raise InvalidSetting(f"{variable} is {value!r}: want http://host:port or https://…")
    return value
