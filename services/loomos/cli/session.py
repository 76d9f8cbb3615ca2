"""`loomos enrol | login | whoami`: who works here.

1. A password is typed, or comes from LOOMOS_PASSWORD; it never stands on the command line.
2. The API key's secret is made here; the platform gets its SHA-256 only.
"""

import base64
import getpass
import hashlib
import os
import secrets
import sys
import time
from typing import Annotated

import typer

from loom.kit.config import Settings
from loomos.cli.door import Door, segment
from loomos.cli.show import Json, done, fields, print_json, short
from loomos.client.profile import Profile

__all__ = ["add_to", "made_key", "new_secret"]

PLATFORM = "platform"
KEY_DAYS = 30

ProfileName = Annotated[str, typer.Option("--as", help="Name of the profile to save.")]
Days = Annotated[int, typer.Option("--days", min=1, max=3650, help="How long the key lives.")]


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    for command in (enrol, login, whoami):
        app.command()(command)


def enrol(
    token: Annotated[str, typer.Option(help="The one-time token that `loomos up` showed.")],
    user: Annotated[str, typer.Option(help="The administrator's name.")],
    save_as: ProfileName = "",
    days: Days = KEY_DAYS,
) -> None:
    """Become the platform's first administrator; saves an API key as a profile.

    Example: loomos enrol --user root --token le_…
    """
    password = asked_password(twice=True)
    with Door.nobody() as door:
        body = {"organisation_id": PLATFORM, "token": token, "user_name": user}
        door.call("POST", "/api/v1/enrolment", body | {"password": password})
        log_in(door, PLATFORM, user, password, save_as or user, days)


def login(
    user: Annotated[str, typer.Option(help="Your name in the organisation.")],
    organisation: Annotated[str, typer.Option("--org", help="Your organisation.")],
    save_as: ProfileName = "",
    days: Days = KEY_DAYS,
) -> None:
    """Log in by password; saves an API key as a profile.

    Example: loomos login --org acme --user ada
    """
    password = asked_password(twice=False)
    with Door.nobody() as door:
        log_in(door, organisation, user, password, save_as or user, days)


def whoami(as_json: Json = False) -> None:
    """Show who the platform takes you for, and your roles."""
    with Door.open() as door:
        found = door.call("GET", "/api/v1/whoami")
        user_id = str(found.get("principal", "")).removeprefix("user:")
        if as_json:
            print_json(found)
            return
        user = door.call("GET", f"/api/v1/users/{segment(user_id)}")
    roles = ", ".join(
        f"{short(grant['role'], 'USER_ROLE_').lower()} of {grant['scope_id']}"
        for grant in found.get("roles", [])
    )
    fields(
        (
            ("user", user.get("user_name", "")),
            ("id", user_id),
            ("organisation", found.get("organisation_id")),
            ("roles", roles),
            ("profile", door.profile.name if door.profile else "LOOMOS_API_KEY"),
            ("gateway", door.gateway),
        )
    )


def log_in(
    door: Door, organisation: str, user: str, password: str, profile: str, days: int
) -> None:
    """Change a password for an API key of this machine, and keep that."""
    kept = Profile.named(Settings.load("cli").home, profile)
    body = {"organisation_id": organisation, "user_name": user, "password": password}
    given = door.call("POST", "/api/v1/login", body)
    with door.bearing(given["token"]) as own:
        expires_at_us = time.time_ns() // 1000 + days * 86_400_000_000
        key, answer = made_key(own, given["user_id"], "cli", expires_at_us)
    kept.save(key)
    done(f"logged in as {user} of {organisation}; profile {kept.name} in {kept.path}", answer)


def made_key(door: Door, user_id: str, name: str, expires_at_us: int) -> tuple[str, dict]:
    """A fresh API key and the receipt of its registration."""
    secret, digest = new_secret()
    body = {
        "user_id": user_id,
        "name": name,
        "secret_sha256": digest,
        "expires_at_us": str(expires_at_us),
    }
    answer = door.call("POST", "/api/v1/api-keys", body)
    return f"lk_{answer['id']}_{secret}", answer


def new_secret() -> tuple[str, str]:
    """256 random bits as 43 characters, and the SHA-256 that a request carries in base64."""
    secret = secrets.token_urlsafe(32)
    return secret, base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()


def asked_password(twice: bool) -> str:
    """The password from LOOMOS_PASSWORD, else typed."""
    if given := os.environ.get("LOOMOS_PASSWORD"):
        return given
    if not sys.stdin.isatty():
        raise typer.BadParameter("there is no terminal: set it", param_hint="LOOMOS_PASSWORD")
    typed = getpass.getpass("password: ")
    if twice and getpass.getpass("the same again: ") != typed:
        raise typer.BadParameter("the two differ", param_hint="password")
    return typed
