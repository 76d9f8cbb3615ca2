"""How a machine becomes a node: a one-time token and a signing request for a certificate.

1. The gateway is believed only under the CA file that came with the token.
2. The token is used once and stored nowhere.
"""

import re
import ssl
from pathlib import Path

import httpx

from loomos.node_agent.identity import node_id, signing_request, store

TOKEN = re.compile(r"lj_(join-platform-[a-z2-7]{20})_([A-Za-z0-9_-]{43})")
JOIN_TIMEOUT_SECONDS = 30.0


class JoinFailed(Exception):
    """The node was not let in; says why and what to do."""


async def join(gateway: str, ca: Path, token: str, name: str, folder: Path) -> str:
    """Joins the cluster with a one-time token and fills the credentials folder; the node's id."""
    parts = TOKEN.fullmatch(token.strip())
    if parts is None:
        raise JoinFailed("the join token has not the form lj_<id>_<secret>: copy all of it")
    key_pem, csr_pem = signing_request(name)
    body = {
        "join_token_id": parts[1],
        "secret": parts[2],
        "node_name": name,
        "csr_pem": csr_pem.decode(),
    }
    try:
        async with httpx.AsyncClient(verify=_trust(ca), timeout=JOIN_TIMEOUT_SECONDS) as client:
            answer = await client.post(f"{gateway.rstrip('/')}/api/v1/nodes/join", json=body)
    except httpx.HTTPError as error:
        raise JoinFailed(f"the gateway {gateway} cannot be reached: {error}") from error
    if answer.status_code >= 300:
        raise JoinFailed(f"the gateway refused to join ({answer.status_code}): {_reason(answer)}")
    given = answer.json()
    store(folder, key_pem, given["certificate_pem"], given["authority_pem"])
    return node_id(folder / "tls.crt")


def _trust(ca: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=str(ca))
    except (OSError, ssl.SSLError) as error:
        raise JoinFailed(f"the CA file {ca} cannot be used: {error}") from error


def _reason(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["detail"])[:400]
    except (ValueError, KeyError, TypeError):
        return answer.text[:400]
