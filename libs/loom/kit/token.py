"""Short bearer tokens: JWTs signed with Ed25519, checked as if every byte came from an attacker.

1. One algorithm, one type, one issuer, one audience; what the header asks for is never done, and
   a header that brings or points to a key is refused.
2. A key is found by its id in security's log, nowhere else; a replaced key is accepted until the
   last token that it can have signed has ended.
3. Every claim is there and of its exact type; `exp` is not stretched.
4. A signature is checked once; key, times and claims are looked at on every call.
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OKPKey

from loom.decider import Position, shard_of
from loom.kit.errors import Failure
from loom.kit.view import SigningKey

__all__ = ["TOKEN_LIFE_SECONDS", "Claims", "key_id_of", "mint", "refused", "verify"]

TOKEN_LIFE_SECONDS = 300
LEEWAY_SECONDS = 30
TOKEN_CHARACTERS_MAX = 2048
SIGNATURES_MAX = 4096
ALGORITHM = "Ed25519"
TYPE = "at+jwt"
PARTY = "loomos"
TOPIC = "loomos.security"
HEADER = {"alg", "typ", "kid"}
KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
USER = re.compile(r"user:(usr-[a-z0-9-]{1,32}-[a-z2-7]{20})")
TOKEN_ID = re.compile(r"[0-9]{1,10}[.][0-9]{1,19}[.][0-9]{1,10}")
STREAM_ID = re.compile(r"[a-z]+-[a-z0-9-]{1,32}-[a-z2-7]{20}")


@dataclass(frozen=True, slots=True)
class Claims:
    """What a valid token says."""

    user_id: str
    organisation_id: str
    token_id: str
    """`jti`: the place of the record that issued it, `partition.offset.incarnation`."""
    position: Position
    """Of the record that issued it."""
    api_key_id: str
    """The key it was issued from; empty for a login."""
    expires_at_s: int


def mint(key_id: str, private_pem: bytes, claims: Claims, now_s: int) -> str:
    """The signed token."""
    body = {
        "iss": PARTY,
        "aud": PARTY,
        "sub": f"user:{claims.user_id}",
        "organisation_id": claims.organisation_id,
        "jti": claims.token_id,
        "iat": now_s,
        "nbf": now_s,
        "exp": claims.expires_at_s,
        "position": list(claims.position[1:]),
        "api_key_id": claims.api_key_id,
    }
    header = {"alg": ALGORITHM, "typ": TYPE, "kid": key_id}
    return jwt.encode(header, body, OKPKey.import_key(private_pem), algorithms=[ALGORITHM])


def key_id_of(token: str) -> str:
    """The id of the key that must have signed; raises Failure where the header is not ours."""
    head, dot, _ = token.partition(".")
    if not dot or len(token) > TOKEN_CHARACTERS_MAX or not token.isascii():
        raise refused("it is not a token of this platform")
    try:
        header = json.loads(base64.urlsafe_b64decode(head + "=" * (-len(head) % 4)))
    except (ValueError, binascii.Error, RecursionError) as error:
        raise refused("its header cannot be read") from error
    if not isinstance(header, dict) or set(header) != HEADER:
        raise refused("its header must hold alg, typ and kid, nothing else")
    key_id = header["kid"]
    if header["alg"] != ALGORITHM or header["typ"] != TYPE:
        raise refused("its algorithm or type is not this platform's")
    if not isinstance(key_id, str) or not KEY_ID.fullmatch(key_id):
        raise refused("its key id has not the form of one")
    return key_id


def verify(token: str, keys: Mapping[str, SigningKey], now_s: float) -> Claims:
    """The claims of a token that is genuine and in its time; raises Failure otherwise."""
    key = keys.get(key_id_of(token))
    if key is None:
        raise refused("its key is not known")
    last_s = key.replaced_at_us / 1_000_000 + TOKEN_LIFE_SECONDS
    if key.replaced_at_us and now_s > last_s + LEEWAY_SECONDS:
        raise refused("its key was replaced")
    return checked(signed(token, key.public_key), now_s)


@lru_cache(maxsize=SIGNATURES_MAX)
def signed(token: str, public_key: bytes) -> Mapping[str, Any]:
    """What a key signed; raises Failure where it did not, which is not remembered."""
    public: dict[str, str | list[str]] = {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": base64url(public_key),
    }
    try:
        return jwt.decode(token, OKPKey.import_key(public), algorithms=[ALGORITHM]).claims
    except (JoseError, ValueError, RecursionError) as error:
        raise refused("its signature does not fit") from error


def checked(body: Mapping[str, Any], now_s: float) -> Claims:
    """The claims, each of its exact type and the times around now."""
    if body.get("iss") != PARTY or body.get("aud") != PARTY:
        raise refused("it is by another issuer or for another audience")
    for name in ("exp", "nbf", "iat"):
        if type(body.get(name)) is not int:
            raise refused(f"its {name} is not a whole number")
    if now_s >= body["exp"]:
        raise refused("it has ended: get a new one")
    if body["nbf"] > now_s + LEEWAY_SECONDS or body["iat"] > now_s + LEEWAY_SECONDS:
        raise refused("it is from the future")
    if body["exp"] - body["iat"] > TOKEN_LIFE_SECONDS + LEEWAY_SECONDS:
        raise refused("it lives longer than this platform's tokens")
    subject = body.get("sub")
    user = USER.fullmatch(subject) if isinstance(subject, str) else None
    if user is None or body.get("organisation_id") != shard_of(user[1]):
        raise refused("its subject is not a user of its organisation")
    token_id, api_key_id, position = (body.get(n) for n in ("jti", "api_key_id", "position"))
    if not isinstance(token_id, str) or not TOKEN_ID.fullmatch(token_id):
        raise refused("its jti has not the form of one")
    if not isinstance(api_key_id, str) or (api_key_id and not STREAM_ID.fullmatch(api_key_id)):
        raise refused("its api_key_id has not the form of one")
    if (
        not isinstance(position, list)
        or len(position) != 3
        or any(type(part) is not int or not 0 <= part < 2**63 for part in position)
    ):
        raise refused("its position has not the form of one")
    return Claims(
        user_id=user[1],
        organisation_id=shard_of(user[1]),
        token_id=token_id,
        position=Position(TOPIC, *position),
        api_key_id=api_key_id,
        expires_at_s=body["exp"],
    )


def refused(why: str) -> Failure:
    """The one answer to a token that does not prove an identity."""
    return Failure("UNAUTHENTICATED", f"the token is refused: {why}", reason="TOKEN_REFUSED")


def base64url(data: bytes) -> str:
    """Without padding, as JWKs have it."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
