"""Identities on this machine: an API key each, and what was last written with it.

A key lies in `$LOOMOS_HOME/profiles/<name>.key`, readable by its owner only.
"""

import json
import os
import re
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Self

__all__ = ["Profile", "Refused", "only", "profiles"]

REMEMBERED_S = 60.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,126}")


class Refused(Exception):
    """A call that did not succeed: what was wrong, and what to do."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        fields: tuple[Mapping[str, str], ...] = (),
        correlation_id: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(detail)
        self.status = status
        """HTTP status; 0 where no gateway answered."""
        self.code = code
        """gRPC status name, e.g. `NOT_FOUND`."""
        self.detail = detail
        self.fields = fields
        """For each broken field: `field`, `description`, `rule`."""
        self.correlation_id = correlation_id
        self.reason = reason
        """One word for programs, where there is one, e.g. `TRAVELLING`."""

    @property
    def field(self) -> str:
        """The field to blame, e.g. `events[3].payload.epoch`; the first where there are more."""
        return self.fields[0]["field"] if self.fields else ""

    def __str__(self) -> str:
        return "; ".join(map(broken, self.fields)) or self.detail


def broken(one: Mapping[str, str]) -> str:
    """A broken field and why, the field named once."""
    field, why = one["field"], one["description"]
    return why if why.startswith(field) else f"{field}: {why}"


class Profile:
    """One identity's API key on this machine, and what it last wrote."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.stem

    @classmethod
    def named(cls, home: Path, name: str) -> Self:
        """The profile of this name, whether or not it is there."""
        if not NAME.fullmatch(name):
            raise Refused(
                0, "INVALID_ARGUMENT", f"profile is {name!r}: want letters, digits or . _ @ + -"
            )
        return cls(home / "profiles" / f"{name}.key")

    def key(self) -> str:
        """The API key; Refused where the file is missing or others may read it."""
        try:
            mode = self.path.stat().st_mode
            text = self.path.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Refused(
                0, "UNAUTHENTICATED", f"profile {self.name!r} cannot be read ({error}): log in"
            ) from error
        if stat.S_IMODE(mode) & 0o077:
            raise Refused(
                0, "UNAUTHENTICATED", f"others may read {self.path}: chmod 600 it and renew the key"
            )
        return text

    def save(self, key: str) -> None:
        """Keep an API key, readable by its owner only."""
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        scratch = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        scratch.unlink(missing_ok=True)
        with os.fdopen(os.open(scratch, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(key + "\n")
        scratch.replace(self.path)

    def positions(self) -> dict[str, str]:
        """The last positions written under this profile, while they may still matter."""
        path = self.path.with_suffix(".positions")
        try:
            if time.time() - path.stat().st_mtime > REMEMBERED_S:
                return {}
            found = json.loads(path.read_bytes())
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def remember(self, positions: Mapping[str, str]) -> None:
        """Keep the last positions; without them a query is at worst a moment behind."""
        path = self.path.with_suffix(".positions")
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            scratch.write_text(json.dumps(positions))
            scratch.replace(path)
        except OSError:
            scratch.unlink(missing_ok=True)


def profiles(home: Path) -> list[Profile]:
    """All profiles of a home, sorted by name."""
    return [Profile(path) for path in sorted((home / "profiles").glob("*.key"))]


def only(home: Path) -> Profile:
    """The one profile of a home; Refused where there is none or a choice."""
    found = profiles(home)
    if len(found) == 1:
        return found[0]
    told = "you are not logged in: `loomos enrol`, `loomos login`, or set LOOMOS_API_KEY"
    if found:
        names = ", ".join(one.name for one in found)
        told = f"there are {len(found)} profiles: choose with LOOMOS_PROFILE ({names})"
    raise Refused(0, "UNAUTHENTICATED", told)
