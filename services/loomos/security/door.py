"""Turns secrets into facts before anything is decided, and decisions into tokens and certificates.

1. A field that the door writes is written over, whatever a caller sent in it.
2. Every refusal of a login is worded, and timed to one grid, alike: an unknown name, a wrong
   password, a locked and a suspended account cannot be told apart.
3. What was proved is proved again for each call: a repeated command id brings the same record back,
   never a token to who does not hold the secret.
"""

import asyncio
import hashlib
import hmac
import json
import time
from pathlib import Path
from typing import Any, TypeVar

from google.protobuf.message import Message

from loom.decider import Code, Position, Rejected
from loom.kit.authority import LEAF_LIFE, Authority, key_of_request
from loom.kit.caller import Caller
from loom.kit.token import TOKEN_LIFE_SECONDS, Claims, mint
from loom.log.clock import now_us
from loom.v1 import security_pb2 as pb
from loom.v1.common_pb2 import Receipt
from loomos.security import password, signing
from loomos.security.decide.key import KEY_REFUSED, LOGIN_REFUSED

__all__ = ["answer", "prepare"]

REFUSAL_GRID_SECONDS = 1.0
PROJECTED_SECONDS = 5.0
NO_ACCOUNT: dict[str, Any] = {
    "status": pb.USER_STATUS_UNSPECIFIED,
    "password_hash": None,
    "password_version": 0,
}
M = TypeVar("M", bound=Message)
ACCOUNT = """
SELECT users.user_id, users.status, users.locked_until_us, password_hash, password_version
FROM users JOIN passwords USING (user_id)
WHERE organisation_id = %s AND user_name_index IN (%s, %s)
"""
ACCOUNT_BY_ID = """
SELECT users.user_id, user_name, password_hash, password_version
FROM users LEFT JOIN passwords USING (user_id) WHERE user_id = %s
"""


async def prepare(command: Message, caller: Caller, shell: Any) -> Message:
    """The command with facts in the place of secrets; Rejected where a secret does not fit."""
    match command:
        case pb.CreateFirstAdminRequest():
            return await prepare_first_admin(copied(command), shell)
        case pb.CreateUserRequest():
            return await prepare_user(copied(command), shell)
        case pb.SetPasswordRequest():
            return await prepare_password(copied(command), shell)
        case pb.LoginRequest():
            return await prepare_login(copied(command), shell)
        case pb.IssueTokenRequest():
            return await prepare_token(copied(command), shell)
        case pb.JoinNodeRequest():
            check_csr(command.csr_pem)
            prepared = copied(command)
            prepared.secret_sha256 = sha256(command.secret)
            return prepared
        case pb.RenewNodeCertificateRequest():
            check_csr(command.csr_pem)
            return command
        case _:
            return command


async def answer(command: Message, receipt: Receipt, caller: Caller, shell: Any) -> Message:
    """What goes back beside the receipt: a token, or a certificate."""
    match command:
        case pb.LoginRequest():
            return await token(command.user_id, "", receipt, shell)
        case pb.IssueTokenRequest():
            user_id = shell.authorizer.view.api_keys[command.api_key_id].user_id
            return await token(user_id, command.api_key_id, receipt, shell)
        case pb.JoinNodeRequest():
            await shell.authorizer.reached(position(receipt))
            node_id = shell.authorizer.view.joined.get(command.join_token_id)
            if node_id is None:
                raise Rejected(
                    Code.ABORTED, "the node joined, its id is not here yet: retry this command"
                )
            return certificate(node_id, command.csr_pem, receipt, shell)
        case pb.RenewNodeCertificateRequest():
            return certificate(command.node_id, command.csr_pem, receipt, shell)
        case _:
            return receipt


async def prepare_first_admin(
    command: pb.CreateFirstAdminRequest, shell: Any
) -> pb.CreateFirstAdminRequest:
    """The enrolment token against its hash in the credentials folder."""
    password.check(command.password, command.user_name)
    command.user_name_index = await indexed(command, shell)
    try:
        enrolment = json.loads((shell.settings.credentials / "enrolment.json").read_bytes())
    except FileNotFoundError:
        enrolment = {}
    given = sha256(command.token)
    expected, expires_at_us = enrolment.get("sha256", ""), enrolment.get("expires_at_us", 0)
    if not hmac.compare_digest(given.hex(), expected) or expires_at_us <= now_us():
        raise Rejected(
            Code.UNAUTHENTICATED,
            "the enrolment token is wrong, used or past its end: start the platform again for a "
            "new one, as long as no administrator exists",
            "token",
        )
    command.token_sha256 = given
    key = password.pepper(shell.settings.credentials)
    command.password_hash = await password.hashed(command.password, key)
    return command


async def prepare_user(command: pb.CreateUserRequest, shell: Any) -> pb.CreateUserRequest:
    """The name's index, and the first password's hash where there is one."""
    command.password_hash = ""
    command.user_name_index = await indexed(command, shell)
    if not command.user_name_index:
        raise Rejected(
            Code.NOT_FOUND,
            f"organisation {command.organisation_id!r} is not known: list organisations",
            "organisation_id",
        )
    if command.password:
        password.check(command.password, command.user_name)
        key = password.pepper(shell.settings.credentials)
        command.password_hash = await password.hashed(command.password, key)
    return command


async def prepare_password(command: pb.SetPasswordRequest, shell: Any) -> pb.SetPasswordRequest:
    """The new password's hash, and which password the current one fitted."""
    key = password.pepper(shell.settings.credentials)
    command.verified_version = 0
    async with shell.db() as db:
        row = await (await db.execute(ACCOUNT_BY_ID, (command.user_id,))).fetchone()
    password.check(command.password, name_of(row, shell) if row else "")
    if row and command.current_password:
        stored = row["password_hash"]
        if await password.fits(command.current_password, stored, key):
            command.verified_version = row["password_version"]
    command.password_hash = await password.hashed(command.password, key)
    return command


async def prepare_login(command: pb.LoginRequest, shell: Any) -> pb.LoginRequest:
    """Whose password fitted; counts a failure where one did not."""
    started = time.monotonic()
    command.user_name_index = await indexed(command, shell)
    # The account, its new password or its reinstatement may be on the way to the table.
    await shell.ownership.projected(command.organisation_id, PROJECTED_SECONDS)
    row = await account(command, shell)
    fitted = await fits(command, row, shell)
    if fitted and is_open(row):
        command.user_id = row["user_id"]
        command.verified_version = row["password_version"]
        return command
    if is_open(row):
        await shell.tell(pb.RecordLoginFailureRequest(user_id=row["user_id"]))
    spent = time.monotonic() - started
    await asyncio.sleep(REFUSAL_GRID_SECONDS - spent % REFUSAL_GRID_SECONDS)
    raise Rejected(Code.UNAUTHENTICATED, LOGIN_REFUSED)


async def indexed(
    command: pb.CreateFirstAdminRequest | pb.CreateUserRequest | pb.LoginRequest, shell: Any
) -> str:
    """What the command's user name is looked up by; "" where there is no such organisation."""
    organisation = command.organisation_id
    if not await shell.authorizer.soon(lambda: organisation in shell.authorizer.view.organisations):
        # A stranger's guess makes no key.
        return ""
    return shell.sealing.index(organisation, "user_name", command.user_name)


def name_of(row: dict[str, Any], shell: Any) -> str:
    """The user name of a row, opened for the platform's own check; nobody is shown it."""
    sealed = pb.User(user_id=row["user_id"], user_name=row["user_name"])
    return shell.sealing.opened(sealed, "", lambda key, action: True).user_name


async def account(command: pb.LoginRequest, shell: Any) -> dict[str, Any]:
    """The account of this name; where there is none, one that nobody can open."""
    async with shell.db() as db:
        names = (command.user_name_index, command.user_name)
        cursor = await db.execute(ACCOUNT, (command.organisation_id, *names))
        return await cursor.fetchone() or NO_ACCOUNT


async def fits(command: pb.LoginRequest, row: dict[str, Any], shell: Any) -> bool:
    """Whether the password is the account's."""
    key = password.pepper(shell.settings.credentials)
    return await password.fits(command.password, row["password_hash"], key)


def is_open(row: dict[str, Any]) -> bool:
    """True for an account that is there, neither suspended nor locked."""
    return row["status"] == pb.USER_STATUS_ACTIVE and row["locked_until_us"] <= now_us()


async def prepare_token(command: pb.IssueTokenRequest, shell: Any) -> pb.IssueTokenRequest:
    """The secret's hash, held against the key's now, whatever was answered before."""
    command.secret_sha256 = sha256(command.secret)
    await shell.authorizer.soon(lambda: command.api_key_id in shell.authorizer.view.api_keys)
    found = shell.authorizer.view.api_keys.get(command.api_key_id)
    if (
        found is None
        or not hmac.compare_digest(found.secret_sha256, command.secret_sha256)
        or found.revoked
        or 0 < found.expires_at_us <= now_us()
    ):
        raise Rejected(Code.UNAUTHENTICATED, KEY_REFUSED)
    return command


async def token(user_id: str, api_key_id: str, receipt: Receipt, shell: Any) -> pb.Token:
    """A token whose position is the record that issued it."""
    found = await signing.signer(shell)
    at = position(receipt)
    now_s = int(time.time())
    expires_at_s = now_s + TOKEN_LIFE_SECONDS
    if api_key_id:
        ends_at_us = shell.authorizer.view.api_keys[api_key_id].expires_at_us
        expires_at_s = min(expires_at_s, ends_at_us // 1_000_000 or expires_at_s)
    claims = Claims(
        user_id=user_id,
        organisation_id=user_id.removeprefix("usr-")[:-21],
        token_id=f"{at.partition}.{at.offset}.{at.incarnation}",
        position=at,
        api_key_id=api_key_id,
        expires_at_s=expires_at_s,
    )
    return pb.Token(
        token=mint(found.key_id, found.private_pem, claims, now_s),
        expires_at_us=expires_at_s * 1_000_000,
        user_id=user_id,
        receipt=receipt,
    )


def certificate(node_id: str, csr_pem: str, receipt: Receipt, shell: Any) -> pb.NodeCertificate:
    """A certificate for the request's key and the node's name."""
    settings = shell.settings
    folder = Path(settings.environ.get("LOOMOS_AUTHORITY") or settings.home / "authority")
    authority = Authority(folder)
    expires_at_us = now_us() + int(LEAF_LIFE.total_seconds()) * 1_000_000
    return pb.NodeCertificate(
        node_id=node_id,
        certificate_pem=authority.sign_csr(csr_pem.encode(), "node", node_id).decode(),
        authority_pem=authority.certificate_pem.decode(),
        expires_at_us=expires_at_us,
        receipt=receipt,
    )


def check_csr(csr_pem: str) -> None:
    """Rejected before the token is used up, where the request could not be signed."""
    try:
        key_of_request(csr_pem.encode())
    except ValueError as error:
        raise Rejected(Code.INVALID_ARGUMENT, f"{error}: make a new one", "csr_pem") from error


def position(receipt: Receipt) -> Position:
    """Where the command's record stands."""
    at = receipt.positions[0]
    return Position(at.topic, at.partition, at.offset, at.incarnation)


def copied(command: M) -> M:
    """A copy, so that a caller's own message keeps what it said."""
    fresh = type(command)()
    fresh.CopyFrom(command)
    return fresh


def sha256(secret: str) -> bytes:
    """The digest by which a secret of 256 random bits is known."""
    return hashlib.sha256(secret.encode()).digest()
