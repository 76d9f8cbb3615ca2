"""`loomos org | project | user | role | dataset`: tenants, people and what they may."""

from typing import Annotated, Any

import typer

from loomos.cli.amounts import time_text
from loomos.cli.door import AsOf, Door, segment
from loomos.cli.session import asked_password
from loomos.cli.show import Json, done, listing, number, short
from loomos.client.profile import Refused

__all__ = ["Org", "add_to", "classification_of", "user_id_of"]

ROLES = ("admin", "engineer", "researcher", "viewer", "service_account")
CLASSIFICATIONS = ("public", "internal", "confidential", "restricted")

org = typer.Typer(help="Organisations: the tenants.", no_args_is_help=True)
project = typer.Typer(help="Projects: where work lives.", no_args_is_help=True)
user = typer.Typer(help="People and programs.", no_args_is_help=True)
role = typer.Typer(help="Who may do what where.", no_args_is_help=True)
dataset = typer.Typer(help="Clearance for sensitive data.", no_args_is_help=True)

UserArgument = Annotated[str, typer.Argument(help="A user's id, or a name in --org.")]
Org = Annotated[str, typer.Option("--org", help="The organisation; yours if not given.")]
Role = Annotated[str, typer.Option("--role", help=f"One of {', '.join(ROLES)}.")]
Scope = Annotated[str, typer.Option("--on", help="platform, an organisation or a project.")]


def add_to(app: typer.Typer) -> None:
    """Add this part's commands."""
    named = {
        "org": org,
        "project": project,
        "user": user,
        "role": role,
        "dataset": dataset,
    }
    for name, part in named.items():
        app.add_typer(part, name=name)


@org.command("create")
def org_create(
    organisation_id: str,
    name: Annotated[str, typer.Option(help="Its name for people.")] = "",
    as_json: Json = False,
) -> None:
    """Found an organisation. Example: loomos org create acme --name "Acme Robotics" """
    with Door.open() as door:
        body = {"organisation_id": organisation_id, "display_name": name}
        answer = door.call("POST", "/api/v1/organisations", body)
    done(f"organisation {organisation_id} created", answer, as_json)


@project.command("create")
def project_create(
    project_id: Annotated[str, typer.Argument(help="ORGANISATION.NAME, e.g. acme.vision")],
    name: Annotated[str, typer.Option(help="Its name for people.")] = "",
    classification: Annotated[
        list[str] | None,
        typer.Option(help="Data that its jobs may use, again for each; none: public, internal."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Found a project. Example: loomos project create acme.vision --classification internal"""
    body = {
        "project_id": project_id,
        "organisation_id": project_id.partition(".")[0],
        "display_name": name,
        "classifications": [classification_of(one) for one in classification or ()],
    }
    with Door.open() as door:
        answer = door.call("POST", "/api/v1/projects", body)
    done(f"project {project_id} created", answer, as_json)


@project.command("list")
def project_list(organisation: Org = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """List the projects that you may see."""
    with Door.open(as_of=as_of) as door:
        found = list(door.pages("/api/v1/projects", "projects", {"organisation_id": organisation}))
    rows = (
        (
            one["project_id"],
            one.get("display_name", ""),
            ", ".join(
                short(c, "DATA_CLASSIFICATION_").lower() for c in one.get("classifications", [])
            ),
            time_text(number(one, "created_at_us")),
        )
        for one in found
    )
    listing(
        found, as_json, ("project", "name", "data", "created"), rows, "no project that you may see"
    )


@user.command("create")
def user_create(
    name: Annotated[str, typer.Argument(help="The name to log in with.")],
    organisation: Annotated[str, typer.Option("--org", help="Where the user belongs, for good.")],
    roles: Annotated[
        list[str] | None,
        typer.Option("--role", help=f"ROLE or ROLE@SCOPE, again for each: {', '.join(ROLES)}."),
    ] = None,
    password: Annotated[
        bool, typer.Option("--password", help="Set a first password (LOOMOS_PASSWORD or typed).")
    ] = False,
    as_json: Json = False,
) -> None:
    """Create a user. Example: loomos user create ada --org acme --role researcher@acme.vision"""
    body: dict[str, Any] = {"organisation_id": organisation, "user_name": name}
    body["roles"] = [grant_of(*split_role(one, organisation)) for one in roles or ()]
    if password:
        body["password"] = asked_password(twice=True)
    with Door.open() as door:
        answer = door.call("POST", "/api/v1/users", body)
    done(f"user {name} created: {answer['id']}", answer, as_json)


@user.command("list")
def user_list(organisation: Org = "", as_of: AsOf = "", as_json: Json = False) -> None:
    """List the users that you may see."""
    with Door.open(as_of=as_of) as door:
        found = list(door.pages("/api/v1/users", "users", {"organisation_id": organisation}))
    rows = (
        (
            one["user_name"],
            one["organisation_id"],
            short(one.get("status"), "USER_STATUS_").lower(),
            ", ".join(
                f"{short(grant['role'], 'USER_ROLE_').lower()}@{grant['scope_id']}"
                for grant in one.get("roles", [])
            ),
            one["user_id"],
        )
        for one in found
    )
    columns = ("user", "organisation", "status", "roles", "id")
    listing(found, as_json, columns, rows, "no user that you may see")


@user.command("suspend")
def user_suspend(
    who: UserArgument,
    reason: Annotated[str, typer.Option(help="Why, for the audit.")] = "",
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Shut a user out at once, keys and tokens included."""
    with Door.open() as door:
        user_id = user_id_of(door, who, organisation)
        path = f"/api/v1/users/{segment(user_id)}/suspend"
        answer = door.call("POST", path, {"reason": reason})
    done(f"{who} is suspended", answer, as_json)


@user.command("reinstate")
def user_reinstate(who: UserArgument, organisation: Org = "", as_json: Json = False) -> None:
    """Let a suspended or locked user in again."""
    with Door.open() as door:
        user_id = user_id_of(door, who, organisation)
        answer = door.call("POST", f"/api/v1/users/{segment(user_id)}/reinstate", {})
    done(f"{who} may come in again", answer, as_json)


@role.command("grant")
def role_grant(
    who: UserArgument, kind: Role, scope: Scope, organisation: Org = "", as_json: Json = False
) -> None:
    """Give a role at a scope. Example: loomos role grant ada --role engineer --on acme.vision"""
    change_role("roles", who, kind, scope, organisation, as_json)


@role.command("revoke")
def role_revoke(
    who: UserArgument, kind: Role, scope: Scope, organisation: Org = "", as_json: Json = False
) -> None:
    """Take a role back."""
    change_role("roles/revoke", who, kind, scope, organisation, as_json)


def change_role(
    path: str, who: str, kind: str, scope: str, organisation: str, as_json: bool
) -> None:
    """Give or take a role."""
    with Door.open() as door:
        user_id = user_id_of(door, who, organisation)
        body = {"grant": grant_of(kind, scope)}
        answer = door.call("POST", f"/api/v1/users/{segment(user_id)}/{path}", body)
    verb = "no longer" if path.endswith("revoke") else "now"
    done(f"{who} is {verb} {kind} of {scope}", answer, as_json)


@dataset.command("grant")
def dataset_grant(
    who: UserArgument,
    project_id: Annotated[str, typer.Option("--project", help="For whose work.")],
    classification: Annotated[str, typer.Option(help=f"One of {', '.join(CLASSIFICATIONS)}.")],
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Let a user work with sensitive data in a project."""
    change_dataset("datasets", who, project_id, classification, organisation, as_json)


@dataset.command("revoke")
def dataset_revoke(
    who: UserArgument,
    project_id: Annotated[str, typer.Option("--project", help="For whose work.")],
    classification: Annotated[str, typer.Option(help=f"One of {', '.join(CLASSIFICATIONS)}.")],
    organisation: Org = "",
    as_json: Json = False,
) -> None:
    """Take that back."""
    path = "datasets/revoke"
    change_dataset(path, who, project_id, classification, organisation, as_json)


def change_dataset(
    path: str, who: str, project_id: str, classification: str, organisation: str, as_json: bool
) -> None:
    """Open or close data of a classification."""
    body = {"project_id": project_id, "classification": classification_of(classification)}
    with Door.open() as door:
        user_id = user_id_of(door, who, organisation or project_id.partition(".")[0])
        answer = door.call("POST", f"/api/v1/users/{segment(user_id)}/{path}", body)
    verb = "may no longer" if path.endswith("revoke") else "may"
    done(f"{who} {verb} use {classification} data in {project_id}", answer, as_json)


def user_id_of(door: Door, who: str, organisation: str) -> str:
    """A user's id, from the id itself or from a name in an organisation."""
    if who.startswith("usr-"):
        return who
    organisation = organisation or door.organisation_id
    for one in door.pages("/api/v1/users", "users", {"organisation_id": organisation}):
        if one["user_name"] == who and organisation in ("", one["organisation_id"]):
            return one["user_id"]
    place = f" in {organisation}" if organisation else ""
    raise Refused(404, "NOT_FOUND", f"no user {who!r}{place}: give --org, or the user's id")


def split_role(text: str, organisation: str) -> tuple[str, str]:
    """Role and scope of `ROLE@SCOPE`; the organisation where none is named."""
    name, _, scope = text.partition("@")
    return name, scope or organisation


def grant_of(name: str, scope: str) -> dict[str, str]:
    """A role at a scope, in the contract's words."""
    if name not in ROLES:
        raise typer.BadParameter(
            f"{name!r} is no role: want {', '.join(ROLES)}", param_hint="--role"
        )
    return {"role": f"USER_ROLE_{name.upper()}", "scope_id": scope}


def classification_of(text: str) -> str:
    """A classification in the contract's words."""
    if text not in CLASSIFICATIONS:
        raise typer.BadParameter(
            f"{text!r} is none: want {', '.join(CLASSIFICATIONS)}", param_hint="--classification"
        )
    return f"DATA_CLASSIFICATION_{text.upper()}"
