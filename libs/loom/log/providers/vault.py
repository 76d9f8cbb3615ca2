"""A key-encryption key that never leaves a Vault: its transit engine wraps and unwraps.

1. Settings: LOOMOS_VAULT (https://…), LOOMOS_VAULT_TOKEN_FILE, LOOMOS_VAULT_KEY (the transit key's
   name), LOOMOS_VAULT_MOUNT (`transit` if not given), LOOMOS_VAULT_CA (PEM; else the system's).
2. The token is read from its file at each call, so that an agent may renew it. It shows nowhere.
3. A call has a deadline; a Vault that is away is `Unusable`, never a reason to store in clear.
"""

import base64
import re
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx

from loom.log.keystore import Unusable

__all__ = ["Transit", "open"]

SECONDS_MAX = 5.0
NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
MOUNT = re.compile(r"[A-Za-z0-9_-]{1,64}(/[A-Za-z0-9_-]{1,64}){0,3}")
CIPHERTEXT = re.compile(r"vault:v([1-9][0-9]{0,8}):[A-Za-z0-9+/=]+")


def open(environ: Mapping[str, str], folder: Path) -> "Transit":
    """The transit key that the settings name; raises Unusable about the first bad setting."""
    address = environ.get("LOOMOS_VAULT", "").rstrip("/")
    if not address.startswith("https://"):
        raise Unusable(f"LOOMOS_VAULT is {address!r}: want https://host:port")
    key, mount = environ.get("LOOMOS_VAULT_KEY", ""), environ.get("LOOMOS_VAULT_MOUNT", "transit")
    if not NAME.fullmatch(key) or not MOUNT.fullmatch(mount):
        raise Unusable("LOOMOS_VAULT_KEY or LOOMOS_VAULT_MOUNT is no name of the transit engine's")
    token = Path(environ.get("LOOMOS_VAULT_TOKEN_FILE", ""))
    if not token.is_file():
        raise Unusable("LOOMOS_VAULT_TOKEN_FILE names no file: write the token there, mode 0600")
    try:
        trust = ssl.create_default_context(cafile=environ.get("LOOMOS_VAULT_CA") or None)
    except OSError as error:
        raise Unusable(f"LOOMOS_VAULT_CA is no certificate authority ({error})") from error
    return Transit(address, mount, key, token, trust)


class Transit:
    """One key of a transit engine."""

    def __init__(
        self, address: str, mount: str, key: str, token: Path, trust: ssl.SSLContext
    ) -> None:
        self._address, self._mount, self._key, self._token = address, mount, key, token
        self._client = httpx.Client(verify=trust, timeout=SECONDS_MAX, follow_redirects=False)

    @property
    def current(self) -> str:
        """The key's name and its latest version."""
        return self._id(int(self._call("GET", "keys")["latest_version"]))

    def wrap(self, secret: bytes) -> tuple[str, bytes]:
        """Have the secret encrypted."""
        content = {"plaintext": base64.b64encode(secret).decode()}
        return self._wrapped(self._call("POST", "encrypt", content))

    def unwrap(self, kek_id: str, wrapped: bytes) -> bytes:
        """Have the secret decrypted."""
        answer = self._call("POST", "decrypt", {"ciphertext": wrapped.decode()})
        try:
            return base64.b64decode(answer["plaintext"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise Unusable("Vault answered decrypt without a plaintext") from error

    def rewrap(self, kek_id: str, wrapped: bytes) -> tuple[str, bytes]:
        """Have it re-encrypted under the latest version; the secret does not leave the Vault."""
        return self._wrapped(self._call("POST", "rewrap", {"ciphertext": wrapped.decode()}))

    def renew(self) -> str:
        """Have the Vault make the next version."""
        self._call("POST", "keys", {}, "/rotate")
        return self.current

    def _id(self, version: int) -> str:
        return f"vault.{self._key}.v{version}"

    def _wrapped(self, answer: Mapping[str, Any]) -> tuple[str, bytes]:
        text = str(answer.get("ciphertext", ""))
        found = CIPHERTEXT.fullmatch(text)
        if not found:
            raise Unusable("Vault answered without a ciphertext of the form vault:v1:…")
        return self._id(int(found.group(1))), text.encode()

    def _call(
        self, method: str, verb: str, content: Mapping[str, str] | None = None, more: str = ""
    ) -> dict[str, Any]:
        url = f"{self._address}/v1/{self._mount}/{verb}/{self._key}{more}"
        try:
            response = self._client.request(
                method,
                url,
                json=content,
                headers={"X-Vault-Token": self._token.read_text().strip()},
            )
        except (OSError, httpx.HTTPError) as error:
            raise Unusable(f"Vault at {self._address} does not answer ({error!r})") from error
        if response.status_code == 204:
            return {}
        if response.status_code != 200:
            told = f"Vault refused {verb} with key {self._key!r}: {response.status_code}"
            raise Unusable(f"{told} {errors_in(response)}".strip())
        try:
            data = response.json().get("data")
        except (ValueError, AttributeError) as error:
            raise Unusable(f"Vault answered {verb} without JSON") from error
        return data if isinstance(data, dict) else {}


def errors_in(response: httpx.Response) -> str:
    """What a refusal tells, in one short line."""
    try:
        told = response.json().get("errors", [])
    except (ValueError, AttributeError):
        return ""
    return "; ".join(str(one) for one in told)[:200] if isinstance(told, list) else ""
