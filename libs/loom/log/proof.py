"""A proof that travels: that one record stands in a signed tree, as a C2SP `.tlog-proof` file.

It needs nothing but the notary's public key to be verified; the leaf travels as its extra data.
"""

import base64
from dataclasses import dataclass

from .leaf import Leaf, unpack
from .merkle import leaf_hash, verify_inclusion
from .note import Checkpoint, InvalidNote, Verifier, decoded

__all__ = ["InvalidProof", "Proof"]

HEADER = "c2sp.org/tlog-proof@v1"
PATH_STEPS_MAX = 63
CHARACTERS_MAX = 163_840


class InvalidProof(Exception):
    """A proof does not hold or cannot be read; the message says why."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Leaf, place, path and signed checkpoint."""

    leaf: bytes
    index: int
    path: tuple[bytes, ...]
    checkpoint: str

    def text(self) -> str:
        """The file's content."""
        lines = [
            HEADER,
            f"extra {base64.b64encode(self.leaf).decode()}",
            f"index {self.index}",
            *(base64.b64encode(step).decode() for step in self.path),
            "",
            self.checkpoint,
        ]
        return "\n".join(lines)

    @classmethod
    def parse(cls, text: str) -> "Proof":
        """The proof that a file holds; InvalidProof for anything else."""
        if len(text) > CHARACTERS_MAX:
            raise InvalidProof(f"a proof has at most {CHARACTERS_MAX} characters, not {len(text)}")
        head, gap, checkpoint = text.partition("\n\n")
        lines = head.split("\n")
        if not gap or len(lines) < 3 or lines[0] != HEADER:
            raise InvalidProof(f"a proof begins with {HEADER!r}, then an extra and an index line")
        extra, index = lines[1].removeprefix("extra "), lines[2].removeprefix("index ")
        if extra == lines[1] or index == lines[2]:
            raise InvalidProof("a proof has an extra and an index line")
        if not (index.isascii() and index.isdigit() and len(index) < 20):
            raise InvalidProof(f"the index is {index[:40]!r}: want a decimal number")
        if len(lines) - 3 > PATH_STEPS_MAX:
            raise InvalidProof(f"a proof has at most {PATH_STEPS_MAX} hashes, not {len(lines) - 3}")
        try:
            path = tuple(decoded(line) for line in lines[3:])
            return cls(decoded(extra), int(index), path, checkpoint)
        except InvalidNote as error:
            raise InvalidProof(str(error)) from error

    def verify(self, verifier: Verifier) -> tuple[Leaf, Checkpoint]:
        """What is proved: the leaf, and the checkpoint whose tree it stands in; or InvalidProof."""
        try:
            checkpoint = verifier.open(self.checkpoint)
            leaf = unpack(self.leaf)
        except (InvalidNote, ValueError) as error:
            raise InvalidProof(str(error)) from error
        if not verify_inclusion(
            leaf_hash(self.leaf), self.index, checkpoint.size, self.path, checkpoint.root
        ):
            raise InvalidProof(
                f"the hashes do not lead from leaf {self.index} to the signed root of "
                f"{checkpoint.size} leaves"
            )
        return leaf, checkpoint
