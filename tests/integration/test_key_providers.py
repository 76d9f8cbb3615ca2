"""Key-encryption keys that live elsewhere: a server that speaks Vault's transit API, SoftHSM."""

import base64
import json
import os
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from loom.kit.authority import Authority
from loom.log import providers
from loom.log.keyring import Keyring
from loom.log.keystore import Directory, Unusable

SOFTHSM = (Path("/usr/lib/softhsm/libsofthsm2.so"), Path("/usr/lib64/pkcs11/libsofthsm2.so"))


class Transit(BaseHTTPRequestHandler):
    """Vault's transit engine as its API documentation says it, with one key, `loomos`."""

    versions: ClassVar[list[bytes]] = []
    token = "s.first"
    broken = ""

    def do_GET(self) -> None:
        self.answered({})

    def do_POST(self) -> None:
        self.answered(json.loads(self.rfile.read(int(self.headers["content-length"])) or b"{}"))

    def answered(self, given: dict[str, Any]) -> None:
        status, content = self.judged(given)
        body = self.broken.encode() or json.dumps(content).encode()
        self.send_response(status)
        self.send_header("content-length", str(0 if status == 204 else len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)

    def judged(self, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if self.headers.get("X-Vault-Token") != self.token:
            return 403, {"errors": ["permission denied"]}
        match self.path.removeprefix("/v1/transit/").split("/"):
            case ["keys", "loomos"]:
                return 200, {"data": {"latest_version": len(self.versions)}}
            case ["keys", "loomos", "rotate"]:
                self.versions.append(os.urandom(32))
                return 204, {}
            case ["encrypt", "loomos"]:
                return 200, {"data": {"ciphertext": self.hidden(given["plaintext"])}}
            case ["decrypt", "loomos"]:
                return self.shown(given["ciphertext"], lambda text: {"plaintext": text})
            case ["rewrap", "loomos"]:
                return self.shown(
                    given["ciphertext"], lambda text: {"ciphertext": self.hidden(text)}
                )
        return 404, {"errors": ["no handler for route"]}

    def hidden(self, text: str) -> str:
        nonce = os.urandom(12)
        box = nonce + AESGCM(self.versions[-1]).encrypt(nonce, base64.b64decode(text), None)
        return f"vault:v{len(self.versions)}:{base64.b64encode(box).decode()}"

    def shown(self, ciphertext: str, told: Any) -> tuple[int, dict[str, Any]]:
        _, version, text = ciphertext.split(":")
        box = base64.b64decode(text)
        try:
            plain = AESGCM(self.versions[int(version[1:]) - 1]).decrypt(box[:12], box[12:], None)
        except InvalidTag:
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": told(base64.b64encode(plain).decode())}

    def log_message(self, format: str, *args: object) -> None:
        """Nobody reads it."""


@pytest.fixture
def vault(tmp_path: Path) -> Iterator[dict[str, str]]:
    authority = Authority.open(tmp_path / "authority")
    authority.issue(tmp_path / "tls", "service", "vault")
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trust.load_cert_chain(tmp_path / "tls" / "tls.crt", tmp_path / "tls" / "tls.key")
    Transit.versions, Transit.token, Transit.broken = [os.urandom(32)], "s.first", ""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Transit)
    server.socket = trust.wrap_socket(server.socket, server_side=True)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    (tmp_path / "token").write_text("s.first\n")
    yield {
        "LOOMOS_VAULT": f"https://127.0.0.1:{server.server_address[1]}",
        "LOOMOS_VAULT_KEY": "loomos",
        "LOOMOS_VAULT_TOKEN_FILE": str(tmp_path / "token"),
        "LOOMOS_VAULT_CA": str(tmp_path / "authority" / "ca.crt"),
    }
    server.shutdown()
    serving.join()
    server.server_close()


def ring(name: str, environ: dict[str, str], path: Path) -> Keyring:
    """A process's own view of the keystore."""
    return Keyring(Directory(path / "data"), providers.named(name, environ, path))


def test_a_vault_wraps_rewraps_and_is_asked_each_time(vault: Any, tmp_path: Path) -> None:
    first = ring("vault", vault, tmp_path)
    key = first.newest("acme", "p-7")
    (path,) = (tmp_path / "data").glob("*/*.json")
    assert base64.b64decode(json.loads(path.read_text())["secret"]).startswith(b"vault:v1:")
    assert ring("vault", vault, tmp_path).get(key.id) == key
    assert first.provider.renew() == "vault.loomos.v2"
    assert first.rewrap() == 1
    Transit.versions[0] = os.urandom(32)
    assert ring("vault", vault, tmp_path).get(key.id) == key, "the first version is not needed"
    (tmp_path / "token").write_text("s.second")
    with pytest.raises(Unusable, match="403 permission denied") as told:
        ring("vault", vault, tmp_path).newest("acme", "p-8")
    assert "s.second" not in str(told.value)
    Transit.token = "s.second"
    assert ring("vault", vault, tmp_path).newest("acme", "p-8")


def test_a_vault_that_is_away_or_lies_stores_nothing(vault: Any, tmp_path: Path) -> None:
    for content in ("nonsense", '{"data": {"ciphertext": "plain"}}', "[]"):
        Transit.broken = content
        with pytest.raises(Unusable):
            ring("vault", vault, tmp_path).newest("acme", "p-7")
    assert not list((tmp_path / "data").glob("*/*.json"))
    with pytest.raises(Unusable, match="want https"):
        ring("vault", vault | {"LOOMOS_VAULT": "http://127.0.0.1:1"}, tmp_path)
    with pytest.raises(Unusable, match="does not answer"):
        ring("vault", vault | {"LOOMOS_VAULT": "https://127.0.0.1:1"}, tmp_path).newest("a", "b")
    untrusted = {name: text for name, text in vault.items() if name != "LOOMOS_VAULT_CA"}
    with pytest.raises(Unusable, match="does not answer"):
        ring("vault", untrusted, tmp_path).newest("acme", "p-7")


@pytest.mark.skipif(not shutil.which("softhsm2-util"), reason="SoftHSM is not installed")
def test_a_hardware_module_keeps_the_key(tmp_path: Path, monkeypatch: Any) -> None:
    library = next(path for path in SOFTHSM if path.exists())
    (tmp_path / "tokens").mkdir()
    (tmp_path / "softhsm2.conf").write_text(f"directories.tokendir = {tmp_path / 'tokens'}\n")
    monkeypatch.setenv("SOFTHSM2_CONF", str(tmp_path / "softhsm2.conf"))
    made = ["--init-token", "--free", "--label", "loomos", "--pin", "123456", "--so-pin", "654321"]
    subprocess.run(["softhsm2-util", *made], check=True, capture_output=True)
    (tmp_path / "pin").write_text("123456\n")
    environ = {
        "LOOMOS_PKCS11": str(library),
        "LOOMOS_PKCS11_TOKEN": "loomos",
        "LOOMOS_PKCS11_KEY": "kek",
        "LOOMOS_PKCS11_PIN_FILE": str(tmp_path / "pin"),
    }
    with pytest.raises(Unusable, match="no key kek"):
        ring("pkcs11", environ, tmp_path)
    import pkcs11

    token = pkcs11.lib(str(library)).get_token(token_label="loomos")
    with token.open(user_pin="123456", rw=True) as session:
        session.generate_key(pkcs11.KeyType.AES, 256, label="kek.000001", store=True)
    first = ring("pkcs11", environ, tmp_path)
    key = first.newest("acme", "p-7")
    assert ring("pkcs11", environ, tmp_path).get(key.id) == key
    assert first.provider.renew() == "kek.000002"
    assert first.rewrap() == 1
    with token.open(user_pin="123456", rw=True) as session:
        old = session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label="kek.000001")
        old.destroy()
    assert ring("pkcs11", environ, tmp_path).get(key.id) == key
    (tmp_path / "pin").write_text("999999")
    with pytest.raises(Unusable, match="PKCS#11 module refuses"):
        ring("pkcs11", environ, tmp_path).newest("acme", "p-8")
