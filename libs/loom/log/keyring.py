"""Data keys at hand: made at a subject's first use, unwrapped once, gone when they are destroyed.

1. A key is used only while the keystore says that it lives: destroying it, by whatever process,
   ends its use here at once, though it was unwrapped before.
2. What is new is sealed under the subject's newest key; digests go under its oldest, so that a
   retry after a rotation still has the same digest. Erasing ends all of them.
3. A wrapped secret carries a digest of whose it is: a key file that was renamed does not open.
"""

import hashlib
import hmac
import threading
from collections import OrderedDict

from loom.log.clock import now_us
from loom.log.keystore import Keystore, Tombstone, Unusable, Wrapped, key_id
from loom.log.providers import Provider
from loom.log.seal import Algorithm, DataKey, digest_key, new_secret

__all__ = ["LIFE_US", "Keyring"]

LIFE_US = 90 * 24 * 3600 * 1_000_000
"""After this long a key is rotated."""
KEPT_MAX = 10_000


class Keyring:
    """The keys of one keystore under one provider."""

    def __init__(
        self,
        store: Keystore,
        provider: Provider,
        algorithm: Algorithm = Algorithm.AES_256_GCM,
    ) -> None:
        self.store = store
        self.provider = provider
        self.algorithm = algorithm
        self._open: OrderedDict[str, DataKey] = OrderedDict()
        self._newest: OrderedDict[tuple[str, str], tuple[str, str]] = OrderedDict()
        """Subject → its newest key, and the one that would follow."""
        self._oldest: OrderedDict[tuple[str, str], str] = OrderedDict()
        self._derived: OrderedDict[tuple[str, str], bytes] = OrderedDict()
        self._lock = threading.RLock()

    def newest(self, organisation: str, subject: str) -> DataKey:
        """The key that seals what is new of a subject; made where there is none."""
        with self._lock:
            known = self._newest.get((organisation, subject))
            if known is not None:
                at_hand = self.get(known[0])
                if at_hand is not None and not self.store.alive(known[1]):
                    return at_hand
            key = self._keys(organisation, subject)[-1]
            following = key_id(organisation, subject, key.number + 1)
            keep(self._newest, (organisation, subject), (key.id, following))
            return self._unwrapped(key)

    def oldest(self, organisation: str, subject: str) -> DataKey:
        """The subject's first key that lives; made where there is none."""
        with self._lock:
            known = self._oldest.get((organisation, subject))
            at_hand = self.get(known) if known is not None else None
            if at_hand is not None:
                return at_hand
            key = self._keys(organisation, subject)[0]
            keep(self._oldest, (organisation, subject), key.id)
            return self._unwrapped(key)

    def get(self, key_id: str) -> DataKey | None:
        """The key of this id; None where it is dead or was never here."""
        with self._lock:
            if not self.store.alive(key_id):
                self._forget(key_id)
                return None
            known = self._open.get(key_id)
            if known is not None:
                return known
            stored = self.store.get(key_id)
            return self._unwrapped(stored) if stored is not None else None

    def digest(self, organisation: str, subject: str, purpose: str, content: bytes) -> bytes:
        """A digest of personal content that dies with the subject."""
        key = self.oldest(organisation, subject)
        with self._lock:
            derived = self._derived.get((key.id, purpose))
            if derived is None:
                derived = digest_key(key, purpose)
                keep(self._derived, (key.id, purpose), derived)
        return hmac.digest(derived, content, "sha256")

    def at_hand(self, organisation: str, subject: str) -> bool:
        """Whether a subject's keys were used here before: then nothing waits for the network."""
        whose = (organisation, subject)
        return whose in self._newest and whose in self._oldest

    def rotate(self, organisation: str, subject: str, number: int) -> Wrapped | None:
        """Make the subject's next key after key `number`; one that is there already stays."""
        with self._lock:
            keys = self.store.living(organisation, subject)
            if not keys or keys[-1].number > number:
                return keys[-1] if keys else None
            return self._make(organisation, subject)

    def rewrap(self) -> int:
        """Bring every key under the key-encryption key that wraps now; gives how many moved."""
        moved = 0
        current = self.provider.current
        for key in self.store.living():
            if key.kek_id != current:
                kek_id, secret = self.provider.rewrap(key.kek_id, key.secret)
                moved += self.store.replace(key._replace(kek_id=kek_id, secret=secret))
        return moved

    def destroy(self, organisation: str, subject: str, cause: str) -> list[Tombstone]:
        """End all keys of a subject, dead ones again."""
        used = self.store.used(organisation, subject)
        ids = [key_id(organisation, subject, number) for number in range(1, used + 1)]
        with self._lock:
            return [self._destroy(one, cause) for one in ids]

    def destroy_again(self, key_id: str, cause: str, at_us: int) -> bool:
        """Make sure that a key is dead; True where it was not."""
        with self._lock:
            self._forget(key_id)
            lived = self.store.get(key_id) is not None
            self.store.destroy(key_id, cause, at_us)
            return lived

    def _destroy(self, key_id: str, cause: str) -> Tombstone:
        self._forget(key_id)
        return self.store.destroy(key_id, cause, now_us())

    def _forget(self, key_id: str) -> None:
        self._open.pop(key_id, None)
        for whose in [whose for whose in self._derived if whose[0] == key_id]:
            del self._derived[whose]

    def _keys(self, organisation: str, subject: str) -> list[Wrapped]:
        """The subject's living keys, at least one."""
        return self.store.living(organisation, subject) or [self._make(organisation, subject)]

    def _make(self, organisation: str, subject: str) -> Wrapped:
        """A new key, unless another process was faster: then its."""
        while True:
            number = self.store.used(organisation, subject) + 1
            secret = new_secret()
            kek_id, wrapped = self.provider.wrap(owner(organisation, subject) + secret)
            key = Wrapped(
                key_id(organisation, subject, number),
                organisation,
                subject,
                number,
                self.algorithm,
                now_us(),
                kek_id,
                wrapped,
            )
            if self.store.create(key):
                self._remember(key, secret)
                return key
            if keys := self.store.living(organisation, subject):
                return keys[-1]

    def _unwrapped(self, key: Wrapped) -> DataKey:
        known = self._open.get(key.id)
        if known is not None:
            return known
        secret = self.provider.unwrap(key.kek_id, key.secret)
        whose = owner(key.organisation, key.subject)
        if not secret.startswith(whose) or len(secret) != 2 * len(whose):
            raise Unusable(f"key {key.id} is not the key of its subject: restore the keystore")
        return self._remember(key, secret[len(whose) :])

    def _remember(self, key: Wrapped, secret: bytes) -> DataKey:
        opened = DataKey(key.id, key.organisation, key.subject, key.algorithm, secret)
        keep(self._open, key.id, opened)
        return opened


def owner(organisation: str, subject: str) -> bytes:
    """What stands before the secret of a subject's key when it is wrapped."""
    return hashlib.sha256(f"{organisation}\0{subject}".encode()).digest()


def keep(where: OrderedDict, name: object, value: object) -> None:
    """Remember, and forget the oldest beyond the limit."""
    where[name] = value
    where.move_to_end(name)
    if len(where) > KEPT_MAX:
        where.popitem(last=False)
