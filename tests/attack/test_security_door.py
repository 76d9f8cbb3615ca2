"""Attacks A8, A12, A13, A19 and joining, through the real door, log and tables.

The tests speak as the gateway does: with its certificate, and a bearer token where a user speaks.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import signal
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.processes import port

from loom.kit.authority import write_secret
from loom.kit.client import Client
from loom.kit.errors import Failure
from loom.kit.service import run
from loom.v1 import security_pb2 as pb
from loom.v1.common_pb2 import DataClassification
from loomos.security.main import SERVICE

PASSWORD = "correct horse battery staple"
TOKEN = secrets.token_urlsafe(32)


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def enrol(folder, token: str) -> None:
    """What the supervisor leaves for security at the first start."""
    told = {"sha256": sha256(token).hex(), "expires_at_us": int((time.time() + 900) * 1e6)}
    write_secret(folder / "enrolment.json", json.dumps(told))


@contextlib.asynccontextmanager
async def security(platform):
    """The service, and a client with the gateway's certificate."""
    address = f"127.0.0.1:{port()}"
    settings = platform.settings("security", LOOMOS_LISTEN=address)
    enrol(settings.credentials, TOKEN)
    service = asyncio.create_task(run(SERVICE, settings))

    async def resolve(name: str, shard: str) -> str:
        return address

    client = Client(platform.settings("gateway"), resolve)
    try:
        yield client
    finally:
        await client.close()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(service, 30)


async def first_admin(client, token: str = TOKEN):
    """Enrol; retried while the service starts."""
    command = pb.CreateFirstAdminRequest(
        organisation_id="platform", token=token, user_name="root", password=PASSWORD
    )
    return await client.tell(command, timeout_s=60)


async def login(client, organisation: str, name: str, password: str = PASSWORD) -> str:
    command = pb.LoginRequest(organisation_id=organisation, user_name=name, password=password)
    return (await client.tell(command, timeout_s=30)).token


async def refused(call, *codes: str) -> Failure:
    with pytest.raises(Failure) as found:
        await call
    assert found.value.code in codes, found.value
    return found.value


def request_for_certificate() -> str:
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(key, hashes.SHA256())
    return signed.public_bytes(serialization.Encoding.PEM).decode()


async def test_from_enrolment_to_a_restricted_dataset(fresh_log, fresh_database):
    async with security(fresh_log) as client:
        await enrolment_story(client)
        root = await login(client, "platform", "root")
        bob, key = await tenant_story(client, root)
        await node_story(client, root)
        await suspension_story(client, root, bob, key)


async def enrolment_story(client) -> None:
    """A13: nothing logs in before, the token works once."""
    await refused(first_admin(client, "admin"), "UNAUTHENTICATED")
    for name in ("admin", "root", "platform"):
        await refused(login(client, "platform", name, name), "UNAUTHENTICATED")
    await first_admin(client)
    await refused(first_admin(client), "FAILED_PRECONDITION", "UNAUTHENTICATED")


async def tenant_story(client, root: str) -> tuple[str, str]:
    """An organisation, a project, a researcher with a quota and a key of his own."""

    async def tell(command, bearer=root):
        return await client.tell(command, bearer=bearer)

    await tell(pb.CreateOrganisationRequest(organisation_id="acme"))
    restricted = DataClassification.DATA_CLASSIFICATION_RESTRICTED
    project = pb.CreateProjectRequest(
        project_id="acme.vision", organisation_id="acme", classifications=[restricted]
    )
    await tell(project)
    role = pb.RoleGrant(role=pb.USER_ROLE_RESEARCHER, scope_id="acme.vision")
    user = pb.CreateUserRequest(
        organisation_id="acme", user_name="bob", roles=[role], password=PASSWORD
    )
    bob = (await tell(user)).id
    jobs = pb.QuotaLimit(kind=pb.QUOTA_KIND_CONCURRENT_JOBS, limit=1)
    await tell(pb.SetQuotaRequest(subject_id=bob, organisation_id="acme", limits=[jobs]))
    token = await login(client, "acme", "bob")
    secret = secrets.token_urlsafe(32)
    command = pb.CreateApiKeyRequest(user_id=bob, name="ci", secret_sha256=sha256(secret))
    receipt = await tell(command, token)
    after = tuple(receipt.positions)
    assert after

    issue = pb.IssueTokenRequest(api_key_id=receipt.id, secret=secret)
    bearer = (await client.tell(issue, command_id="issue-1")).token
    wrong = pb.IssueTokenRequest(api_key_id=receipt.id, secret=secrets.token_urlsafe(32))
    await refused(client.tell(wrong, command_id="issue-1"), "UNAUTHENTICATED")
    known = pb.IssueTokenRequest(api_key_id=receipt.id, secret_sha256=sha256(secret))
    await refused(client.tell(known), "UNAUTHENTICATED")

    me = await client.ask(pb.WhoAmIRequest(), bearer=bearer)
    assert me.principal == f"user:{bob}"
    assert [role.scope_id for role in me.roles] == ["acme.vision"]
    mine = await client.ask(pb.GetQuotaRequest(subject_id=bob), bearer=bearer)
    assert mine.limits[0].limit == 1
    users = await client.ask(pb.ListUsersRequest(), bearer=bearer)
    assert [user.user_id for user in users.users] == [bob]
    everybody = await client.ask(pb.ListUsersRequest(limit=1), bearer=root)
    assert everybody.next_cursor
    rest = await client.ask(pb.ListUsersRequest(cursor=everybody.next_cursor), bearer=root)
    assert len(rest.users) == 1
    await refused(
        tell(pb.SuspendUserRequest(user_id=bob), bearer), "PERMISSION_DENIED", "NOT_FOUND"
    )
    higher = pb.RoleGrant(role=pb.USER_ROLE_ADMIN, scope_id="acme")
    await refused(
        tell(pb.GrantRoleRequest(user_id=bob, grant=higher), bearer),
        "PERMISSION_DENIED",
        "NOT_FOUND",
    )
    await tell(
        pb.GrantDatasetAccessRequest(
            user_id=bob, project_id="acme.vision", classification=restricted
        )
    )
    explained = await client.ask(
        pb.ExplainAccessRequest(
            action="SubmitJob", resource_kind="project", resource_id="acme.vision"
        ),
        bearer=bearer,
    )
    assert (explained.allowed, list(explained.reasons)) == (True, ["role-researcher"])
    return bob, bearer


async def node_story(client, root: str) -> None:
    """A46: one token, one node."""
    secret = secrets.token_urlsafe(32)
    token = pb.CreateJoinTokenRequest(
        organisation_id="platform", cluster_id="local", secret_sha256=sha256(secret)
    )
    token_id = (await client.tell(token, bearer=root)).id
    join = pb.JoinNodeRequest(
        join_token_id=token_id,
        secret=secret,
        node_name="one",
        csr_pem=request_for_certificate(),
    )
    joined = await client.tell(join, command_id="join-1")
    assert joined.node_id.startswith("node-local-")
    leaf = x509.load_pem_x509_certificate(joined.certificate_pem.encode())
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == [f"spiffe://loomos/node/{joined.node_id}"]
    join.node_name = "two"
    await refused(client.tell(join), "UNAUTHENTICATED")
    join.csr_pem = "no request"
    await refused(client.tell(join), "INVALID_ARGUMENT")


async def suspension_story(client, root: str, bob: str, bearer: str) -> None:
    """A8: a suspended user's token dies as soon as the view has heard, and stays dead."""
    await client.tell(pb.SuspendUserRequest(user_id=bob, reason="left"), bearer=root)
    with contextlib.suppress(Failure):
        async with asyncio.timeout(5):
            while await client.ask(pb.WhoAmIRequest(), bearer=bearer):
                await asyncio.sleep(0.01)
    await refused(client.ask(pb.WhoAmIRequest(), bearer=bearer), "UNAUTHENTICATED")
    await refused(login(client, "acme", "bob"), "UNAUTHENTICATED")
    await client.tell(pb.ReinstateUserRequest(user_id=bob), bearer=root)
    await refused(client.ask(pb.WhoAmIRequest(), bearer=bearer), "UNAUTHENTICATED")
    assert await login(client, "acme", "bob")


async def test_a12_refused_logins_look_alike(fresh_log, fresh_database):
    async with security(fresh_log) as client:
        await first_admin(client)
        wrong = [
            await refused(login(client, "platform", name, "not the password"), "UNAUTHENTICATED")
            for name in ("root", "nobody") * 5
        ]
        assert len({(found.code, found.message, found.field) for found in wrong}) == 1
        locked = await refused(login(client, "platform", "root"), "UNAUTHENTICATED")
        assert locked.message == wrong[0].message
