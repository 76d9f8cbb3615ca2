"""A key-encryption key in a hardware module, by PKCS#11 (extra `hsm`: the library python-pkcs11).

1. Settings: LOOMOS_PKCS11 (the module's library), LOOMOS_PKCS11_TOKEN and LOOMOS_PKCS11_KEY
   (labels), LOOMOS_PKCS11_PIN_FILE. The key is an AES-256 key that the module does not give out.
2. Several keys of the label's form `<label>.<number>` may exist: the largest number wraps.
3. Wrapped with AES-GCM inside the module, under a nonce of the module's own random numbers.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from loom.log.keystore import Unusable

__all__ = ["Module", "open"]

NONCE_BITS = 96
TAG_BITS = 128
KEY_BITS = 256


def open(environ: Mapping[str, str], folder: Path) -> "Module":
    """The module that the settings name; raises Unusable about the first bad setting."""
    try:
        import pkcs11
    except ImportError as error:
        raise Unusable("LOOMOS_KEY_PROVIDER is pkcs11: install loomos[hsm]") from error
    given = {
        name: environ.get(f"LOOMOS_PKCS11{name}", "")
        for name in ("", "_TOKEN", "_KEY", "_PIN_FILE")
    }
    for name, value in given.items():
        if not value:
            raise Unusable(f"LOOMOS_PKCS11{name} is missing")
    try:
        library = pkcs11.lib(given[""])
        token = library.get_token(token_label=given["_TOKEN"])
    except (OSError, RuntimeError, pkcs11.PKCS11Error) as error:
        raise Unusable(f"LOOMOS_PKCS11 {given['']}: no such token ({error!r})") from error
    module = Module(token, given["_KEY"], Path(given["_PIN_FILE"]))
    _ = module.current
    return module


class Module:
    """The keys of one label in one token."""

    def __init__(self, token: Any, label: str, pin: Path) -> None:
        self._token, self._label, self._pin = token, label, pin

    @property
    def current(self) -> str:
        """The label of the key with the largest number."""
        with self._session() as session:
            return self._labels(session)[-1]

    def wrap(self, secret: bytes) -> tuple[str, bytes]:
        """Wrap under the key with the largest number."""
        with self._session() as session:
            return self._wrap(session, secret)

    def unwrap(self, kek_id: str, wrapped: bytes) -> bytes:
        """Unwrap with the key that wrapped."""
        with self._session() as session:
            return self._unwrap(session, kek_id, wrapped)

    def rewrap(self, kek_id: str, wrapped: bytes) -> tuple[str, bytes]:
        """Unwrap with the old key, wrap with the newest."""
        with self._session() as session:
            return self._wrap(session, self._unwrap(session, kek_id, wrapped))

    def renew(self) -> str:
        """Have the module make the next key, which it will not give out."""
        import pkcs11

        with self._session() as session:
            number = int(self._labels(session)[-1].rpartition(".")[2]) + 1
            label = f"{self._label}.{number:06d}"
            private = {pkcs11.Attribute.EXTRACTABLE: False, pkcs11.Attribute.SENSITIVE: True}
            session.generate_key(
                pkcs11.KeyType.AES, KEY_BITS, label=label, store=True, template=private
            )
        return label

    def _labels(self, session: Any) -> list[str]:
        import pkcs11

        keys = session.get_objects({pkcs11.Attribute.CLASS: pkcs11.ObjectClass.SECRET_KEY})
        labels = sorted(key.label for key in keys if key.label.startswith(f"{self._label}."))
        if not labels:
            raise Unusable(
                f"the token has no key {self._label}.000001: make it with the module's own tool"
            )
        return labels

    def _wrap(self, session: Any, secret: bytes) -> tuple[str, bytes]:
        import pkcs11

        label = self._labels(session)[-1]
        nonce = session.generate_random(NONCE_BITS)
        parameters = pkcs11.GCMParams(nonce, label.encode(), TAG_BITS)
        hidden = self._key(session, label).encrypt(
            secret, mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters
        )
        return label, nonce + hidden

    def _unwrap(self, session: Any, kek_id: str, wrapped: bytes) -> bytes:
        import pkcs11

        size = NONCE_BITS // 8
        parameters = pkcs11.GCMParams(wrapped[:size], kek_id.encode(), TAG_BITS)
        return self._key(session, kek_id).decrypt(
            wrapped[size:], mechanism=pkcs11.Mechanism.AES_GCM, mechanism_param=parameters
        )

    def _key(self, session: Any, label: str) -> Any:
        import pkcs11

        return session.get_key(object_class=pkcs11.ObjectClass.SECRET_KEY, label=label)

    @contextmanager
    def _session(self) -> Iterator[Any]:
        import pkcs11

        try:
            pin = self._pin.read_text().strip()
            with self._token.open(user_pin=pin, rw=True) as session:
                yield session
        except (OSError, pkcs11.PKCS11Error) as error:
            raise Unusable(f"the PKCS#11 module refuses ({error!r})") from error
