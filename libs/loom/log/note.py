"""Signed notes: checkpoints of a tree in C2SP's format, signed with Ed25519.

1. A checkpoint's text is its origin line, its size and its root in base64, one line each.
2. A signature line names the key by name and by the first 4 bytes of
   SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key).
3. The private key is made at first start, is readable by its owner only, and never shown.
"""

import base64
import binascii
import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from . import regular

ED25519 = b"\x01"
NOTE_CHARACTERS_MAX = 131_072
"""Room for 16 signatures of witnesses, post-quantum ones among them."""
SIGNATURES_MAX = 16
KEY_BYTES_MAX = 65_536
SIZE_MAX = 2**63 - 1


class InvalidNote(Exception):
    """A note or a key cannot be used; the message says why."""


class Checkpoint(NamedTuple):
    """What a note states: the tree of this origin had this root at this size."""

    origin: str
    size: int
    root: bytes

    def text(self) -> str:
        """The signed part of the note."""
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


@dataclass(frozen=True, slots=True)
class Verifier:
    """A public key and the name it signs under."""

    name: str
    key: bytes

    @property
    def key_id(self) -> bytes:
        """The four bytes by which signature lines name the key."""
        return sha256(self.name.encode() + b"\n" + ED25519 + self.key).digest()[:4]

    def text(self) -> str:
        """The key in one line: `<name>+<key id>+<base64>`."""
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.key).decode()}"

    @classmethod
    def parse(cls, text: str) -> "Verifier":
        """The key that `text` gave; InvalidNote for anything else."""
        parts = text.strip().split("+", 2)
        if len(parts) != 3:
            raise InvalidNote("a public key has the form <name>+<key id>+<base64>")
        data = decoded(parts[2])
        if len(data) != 33 or data[:1] != ED25519:
            raise InvalidNote("the public key is not an Ed25519 key of a notary")
        verifier = cls(checked_name(parts[0]), data[1:])
        if verifier.key_id.hex() != parts[1]:
            raise InvalidNote(f"the public key's id is {verifier.key_id.hex()}, not {parts[1]!r}")
        return verifier

    @classmethod
    def load(cls, path: Path) -> "Verifier":
        """The key in a file; InvalidNote where there is none."""
        try:
            return cls.parse(regular.read(path, KEY_BYTES_MAX).decode())
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidNote(f"{path} holds no public key: {error}") from error

    def open(self, note: str) -> Checkpoint:
        """The checkpoint in a note that this key signed; InvalidNote otherwise."""
        return parse_checkpoint(self.opened(note))

    def opened(self, note: str) -> str:
        """The text of a note that this key signed; InvalidNote otherwise."""
        text, signatures = split(note)
        for name, data in signatures:
            if name == self.name and data[:4] == self.key_id:
                try:
                    Ed25519PublicKey.from_public_bytes(self.key).verify(data[4:], text.encode())
                except InvalidSignature:
                    raise InvalidNote(f"the signature of {name!r} does not fit the note") from None
                return text
        raise InvalidNote(f"the note is not signed by {self.name!r} ({self.key_id.hex()})")


class Signer:
    """A private key and the name it signs under."""

    def __init__(self, name: str, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.verifier = Verifier(checked_name(name), key.public_key().public_bytes_raw())

    def sign(self, checkpoint: Checkpoint) -> str:
        """The signed note; the same checkpoint always gives the same note."""
        return self.sign_text(checkpoint.text())

    def sign_text(self, text: str) -> str:
        """A signed note of any text that ends in a newline."""
        data = self.verifier.key_id + self._key.sign(text.encode())
        return f"{text}\n— {self.verifier.name} {base64.b64encode(data).decode()}\n"


def parse_checkpoint(text: str) -> Checkpoint:
    """The checkpoint in a note's text; lines after the third are extensions and are ignored."""
    lines = text.split("\n")
    if len(lines) < 4 or not lines[0]:
        raise InvalidNote("a checkpoint has an origin, a size and a root line")
    if not (lines[1].isascii() and lines[1].isdigit() and len(lines[1]) < 20):
        raise InvalidNote(f"a checkpoint's size is a decimal number, this one is {lines[1][:40]!r}")
    size = int(lines[1])
    if str(size) != lines[1] or size > SIZE_MAX:
        raise InvalidNote(f"a checkpoint's size is a plain 63 bit number, not {lines[1]!r}")
    root = decoded(lines[2])
    if len(root) != 32:
        raise InvalidNote(f"a checkpoint's root has 32 bytes, this one {len(root)}")
    return Checkpoint(lines[0], size, root)


def split(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """A note's text and its signatures (name, key id and signature)."""
    if len(note) > NOTE_CHARACTERS_MAX:
        raise InvalidNote(f"a note has at most {NOTE_CHARACTERS_MAX} characters, not {len(note)}")
    text, gap, tail = note.rpartition("\n\n")
    if not gap or not tail.endswith("\n"):
        raise InvalidNote("a note has a text, an empty line and signature lines")
    signatures = []
    lines = tail[:-1].split("\n")
    if len(lines) > SIGNATURES_MAX:
        raise InvalidNote(f"a note has at most {SIGNATURES_MAX} signatures, not {len(lines)}")
    for line in lines:
        dash, name, data = (*line.split(" "), "", "", "")[:3]
        if dash != "—" or line.count(" ") != 2:
            raise InvalidNote(f"not a signature line: {line[:80]!r}")
        signatures.append((name, decoded(data)))
    return text + "\n", signatures


def load_signer(folder: Path, name: str) -> Signer:
    """The notary's key from the credentials folder, made there at first start."""
    signer = Signer(name, load_key(folder / "notary.key"))
    public = folder / "notary.pub"
    if not public.exists() or public.read_text().strip() != signer.verifier.text():
        public.write_text(signer.verifier.text() + "\n")
    return signer


def load_key(path: Path) -> Ed25519PrivateKey:
    """A private key from its file, made there at first start."""
    if not path.exists():
        make_key(path)
    mode = path.stat().st_mode & 0o777
    if mode & 0o077:
        raise InvalidNote(f"{path} has mode {mode:o}: others can read it; make it 600")
    try:
        key = serialization.load_pem_private_key(regular.read(path, KEY_BYTES_MAX), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidNote(f"{path} holds no private key: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidNote(f"{path} holds another kind of key than Ed25519")
    return key


def make_key(path: Path) -> None:
    """Write a fresh private key that only its owner can read; an existing one is kept."""
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())
    # A hard link, not a rename: two first starts at once must end with one key.
    try:
        path.hardlink_to(fresh)
    except FileExistsError:
        return
    finally:
        fresh.unlink()


def checked_name(name: str) -> str:
    """A key's name as signature lines can carry it."""
    if not name or "+" in name or any(character.isspace() for character in name):
        raise InvalidNote(f"a key's name has neither spaces nor '+': {name!r}")
    return name


def decoded(text: str) -> bytes:
    """Strict base64: bytes have one text only, so the bits that no byte needs are zero."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidNote(f"not base64: {text[:80]!r}") from error
    if base64.b64encode(data).decode() != text:
        raise InvalidNote(f"not the base64 of any bytes: {text[:80]!r}")
    return data
