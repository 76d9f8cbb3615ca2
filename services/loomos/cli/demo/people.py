"""Chapter 1: the first administrator enrols; an organisation, a project, a researcher with a quota.

A secret is made where it is used: only the SHA-256 of an API key's secret reaches the platform.
"""

import base64
import hashlib
import secrets
from pathlib import Path

from loomos.cli.demo.stage import Stage
from loomos.cli.door import Door
from loomos.client.profile import Profile

__all__ = ["GPUS_MILLI_MAX", "JOBS_MAX", "ORGANISATION", "PROJECT", "play", "secret_pair"]

STEP = 1
ORGANISATION = "acme"
PROJECT = "acme.vision"
JOBS_MAX = 4
GPUS_MILLI_MAX = 2000


def play(stage: Stage) -> None:
    """From the one-time token to a researcher who holds an API key."""
    state = stage.state()
    gateway, ca = state["gateway"], Path(state["ca"])
    nobody = Door(gateway, ca)
    enrol(stage, nobody)
    found(stage)
    hire(stage, nobody)
    me = stage.researcher.call("GET", "/api/v1/whoami")
    made = stage.event("api.key.created", stage.ids["researcher-key"])
    stage.held(STEP, f"the researcher's API key speaks for {me['principal']}", made)
    nobody.close()


def enrol(stage: Stage, nobody: Door) -> None:
    """The one-time token becomes the first administrator."""
    token = (stage.home / "enrolment.token").read_text().strip()
    password = secrets.token_urlsafe(18)
    who = {"organisation_id": "platform", "user_name": "root", "password": password}
    receipt = nobody.call("POST", "/api/v1/enrolment", {**who, "token": token})
    login = nobody.call("POST", "/api/v1/login", who)
    stage.doors["admin"] = own_key(stage, nobody.bearing(login["token"]), receipt["id"], "admin")
    proof = stage.event("enrolment.completed")
    stage.held(
        STEP, f"the first administrator enrolled with the one-time token: {receipt['id']}", proof
    )


def found(stage: Stage) -> None:
    """An organisation and its project."""
    organisation = {"organisation_id": ORGANISATION, "display_name": "Acme Research"}
    stage.admin.call("POST", "/api/v1/organisations", organisation)
    project = {
        "project_id": PROJECT,
        "organisation_id": ORGANISATION,
        "display_name": "Handwriting",
        "classifications": ["DATA_CLASSIFICATION_PUBLIC", "DATA_CLASSIFICATION_INTERNAL"],
    }
    stage.admin.call("POST", "/api/v1/projects", project)
    told = f"project {PROJECT} may use public and internal data"
    stage.held(STEP, told, stage.event("project.created", PROJECT))


def hire(stage: Stage, nobody: Door) -> None:
    """A researcher of the project, with limits, who logs in and makes an API key."""
    roles = [{"role": "USER_ROLE_RESEARCHER", "scope_id": PROJECT}]
    who = {
        "organisation_id": ORGANISATION,
        "user_name": "ada",
        "password": secrets.token_urlsafe(18),
    }
    user_id = stage.admin.call("POST", "/api/v1/users", {**who, "roles": roles})["id"]
    limits = [
        {"kind": "QUOTA_KIND_CONCURRENT_JOBS", "limit": JOBS_MAX},
        {"kind": "QUOTA_KIND_CONCURRENT_GPUS", "limit": GPUS_MILLI_MAX},
    ]
    quota = {"organisation_id": ORGANISATION, "limits": limits}
    stage.admin.call("PUT", f"/api/v1/quotas/{user_id}", quota)
    stage.ids["researcher"] = user_id
    gpus = GPUS_MILLI_MAX // 1000
    told = f"researcher {user_id} may hold {gpus} GPUs and {JOBS_MAX} jobs at once"
    stage.held(STEP, told, stage.event("quota.set", user_id))
    login = nobody.call("POST", "/api/v1/login", who)
    door = own_key(stage, nobody.bearing(login["token"]), user_id, "researcher")
    stage.doors["researcher"] = door


def own_key(stage: Stage, door: Door, user_id: str, profile: str) -> Door:
    """A door with an API key of who is logged in, kept as a profile for later commands too."""
    secret, digest = secret_pair()
    body = {"user_id": user_id, "name": "demo", "secret_sha256": digest}
    key_id = door.call("POST", "/api/v1/api-keys", body)["id"]
    key = f"lk_{key_id}_{secret}"
    Profile.named(stage.home, profile).save(key)
    stage.ids[f"{profile}-key"] = key_id
    return Door(door.gateway, door.ca, key=key)


def secret_pair() -> tuple[str, str]:
    """A fresh secret of 43 characters, and its SHA-256 as JSON carries bytes."""
    secret = base64.urlsafe_b64encode(secrets.token_bytes(32)).rstrip(b"=").decode()
    return secret, base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()
