"""Witnesses' words on a checkpoint: C2SP tlog-cosignature (Ed25519), and what a witness is sent.

1. A cosignature covers the note's text and the second at which it was given, so it says: at that
   time this was the largest consistent tree that the witness had seen of this log.
2. A witness's key id is the first 4 bytes of SHA-256(name ‖ 0x0A ‖ 0x04 ‖ public key): the same key
   can never be taken for one that signs notes themselves.
"""

import base64
from dataclasses import dataclass
from hashlib import sha256
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .note import InvalidNote, checked_name, decoded, split

__all__ = ["Cosigner", "Submission", "WitnessKey"]

COSIGNATURE = b"\x04"
TIME_BYTES = 8
STEPS_MAX = 63
SIZE_MAX = 2**63 - 1


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """A witness's public key and the name it signs under."""

    name: str
    key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes by which signature lines name the key."""
        return sha256(self.name.encode() + b"\n" + COSIGNATURE + self.key).digest()[:4]

    def text(self) -> str:
        """The key in one line: `<name>+<key id>+<base64>`."""
        data = base64.b64encode(COSIGNATURE + self.key).decode()
        return f"{self.name}+{self.key_id.hex()}+{data}"

    @classmethod
    def parse(cls, text: str) -> "WitnessKey":
        """The key that `text` gave; InvalidNote for anything else."""
        name, _, rest = text.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        data = decoded(encoded)
        if len(data) != 33 or data[:1] != COSIGNATURE:
            raise InvalidNote("the public key is not an Ed25519 key of a witness")
        witness = cls(checked_name(name), data[1:])
        if witness.key_id.hex() != key_id:
            raise InvalidNote(f"the public key's id is {witness.key_id.hex()}, not {key_id[:16]!r}")
        return witness

    def seen_at(self, note: str) -> int:
        """When this witness cosigned a note, in seconds since 1970; 0 where it did not.

        Raises InvalidNote for a signature in its name that does not fit.
        """
        text, signatures = split(note)
        for name, data in signatures:
            if name == self.name and data[:4] == self.key_id:
                seconds = int.from_bytes(data[4 : 4 + TIME_BYTES], "big")
                try:
                    public = Ed25519PublicKey.from_public_bytes(self.key)
                    public.verify(data[4 + TIME_BYTES :], message_of(text, seconds))
                except InvalidSignature:
                    raise InvalidNote(f"the cosignature of {name!r} does not fit") from None
                return seconds
        return 0


class Cosigner:
    """A witness's private key."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = WitnessKey(checked_name(name), key.public_key().public_bytes_raw())

    def cosign(self, note: str, seconds: int) -> str:
        """The signature line for a note at this second; consistency is the caller's to check."""
        text, _ = split(note)
        signature = self._key.sign(message_of(text, seconds))
        data = self.public.key_id + seconds.to_bytes(TIME_BYTES, "big") + signature
        return f"— {self.public.name} {base64.b64encode(data).decode()}\n"


def message_of(text: str, seconds: int) -> bytes:
    """What a witness signs."""
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


class Submission(NamedTuple):
    """What a log sends to `add-checkpoint`."""

    old: int
    path: tuple[bytes, ...]
    note: str

    def text(self) -> str:
        """The request's body."""
        steps = (base64.b64encode(step).decode() for step in self.path)
        return "\n".join([f"old {self.old}", *steps, "", self.note])

    @classmethod
    def parse(cls, text: str) -> "Submission":
        """The submission in a body; InvalidNote for anything else."""
        head, gap, note = text.partition("\n\n")
        first, *steps = head.split("\n")
        number = first.removeprefix("old ")
        plain = number.isascii() and number.isdigit() and len(number) < 20
        if not gap or number == first or not plain or str(int(number)) != number:
            raise InvalidNote(f"a submission begins with `old <size>`, not {first[:40]!r}")
        if len(steps) > STEPS_MAX:
            raise InvalidNote(f"a proof has at most {STEPS_MAX} hashes, not {len(steps)}")
        path = tuple(decoded(step) for step in steps)
        if int(number) > SIZE_MAX or any(len(step) != 32 for step in path):
            raise InvalidNote("a size has 63 bits, and a proof's hashes have 32 bytes")
        return cls(int(number), path, note)
