"""`loomos key`: API keys, whose secrets are made here and shown once."""

import time
from typing import Annotated

import typer

from loom.kit.config import Settings
from loomos.cli.admin import Org, user_id_of
from loomos.cli.amounts import seconds_of, time_text
from loomos.cli.door import AsOf, Door, segment
from loomos.cli.session import made_key
from loomos.cli.show import Json, done, err, listing, number, out
from loomos.client.profile import Profile

__all__ = ["key"]

key = typer.Typer(help="API keys.", no_args_is_help=True)


@key.command("create")
def key_create(
    who: Annotated[str, typer.Option("--user", help="For whom; yourself if not given.")] = "",
    name: Annotated[str, typer.Option(help="A name to tell keys apart.")] = "cli",
    expires: Annotated[str, typer.Option(help="When it ends, e.g. 12h or 30d; else never.")] = "",
    save_as: Annotated[str, typer.Option(help="Save it as a profile instead of showing it.")] = "",
    organisation: Org = "",
) -> None:
    """Make an API key. The key is shown once; only its SHA-256 leaves this machine.

    Example: loomos key create --user ada --org acme --name laptop --expires 30d
    """
    life_s = seconds_of("--expires", expires)
    with Door.open() as door:
        user_id = user_id_of(door, who, organisation) if who else own_id(door)
        ends_at_us = time.time_ns() // 1000 + life_s * 1_000_000 if life_s else 0
        made, answer = made_key(door, user_id, name, ends_at_us)
    if save_as:
        kept = Profile.named(Settings.load("cli").home, save_as)
        kept.save(made)
        err.print(f"key {answer['id']} is in profile {kept.name}", markup=False)
        return
    err.print(f"key {answer['id']}: it is shown this once", markup=False)
    out.print(made, markup=False)


@key.command("list")
def key_list(
    who: Annotated[str, typer.Option("--user")] = "", as_of: AsOf = "", as_json: Json = False
) -> None:
    """List API keys; never their secrets."""
    with Door.open(as_of=as_of) as door:
        user_id = user_id_of(door, who, "") if who else ""
        found = list(door.pages("/api/v1/api-keys", "api_keys", {"user_id": user_id}))
    rows = (
        (
            one["name"],
            one["user_id"],
            "revoked" if number(one, "revoked_at_us") else "valid",
            time_text(number(one, "expires_at_us")),
            one["api_key_id"],
        )
        for one in found
    )
    listing(
        found, as_json, ("name", "user", "state", "ends", "id"), rows, "no API key that you may see"
    )


@key.command("revoke")
def key_revoke(api_key_id: str, as_json: Json = False) -> None:
    """End an API key and the tokens made from it."""
    with Door.open() as door:
        answer = door.call("POST", f"/api/v1/api-keys/{segment(api_key_id)}/revoke", {})
    done(f"key {api_key_id} is revoked", answer, as_json)


def own_id(door: Door) -> str:
    """The caller's own user id."""
    return str(door.call("GET", "/api/v1/whoami").get("principal", "")).removeprefix("user:")
