"""How a runtime and its worker talk on their socket pair: a JSON head and a body of raw bytes.

1. Neither side executes what it reads: JSON and plain arrays only.
2. Both lengths are bounded before anything is allocated: a worker is trusted less than its runtime.
"""

import json
import struct
from typing import Any

import numpy as np

from loomos.runtime.plugins import DTYPES

__all__ = ["LENGTHS", "FrameTooLarge", "encode", "lengths", "raw_of"]

LENGTHS = struct.Struct("!II")
HEAD_BYTES_MAX = 1024 * 1024
BODY_BYTES_MAX = 256 * 1024 * 1024


class FrameTooLarge(Exception):
    """A frame announces more than the protocol allows."""


def encode(head: dict[str, Any], *body: bytes) -> list[bytes]:
    """The frame's pieces, in order."""
    text = json.dumps(head, separators=(",", ":")).encode()
    return [LENGTHS.pack(len(text), sum(map(len, body))), text, *body]


def lengths(prefix: bytes) -> tuple[int, int]:
    """How long head and body are."""
    head, body = LENGTHS.unpack(prefix)
    if head > HEAD_BYTES_MAX or body > BODY_BYTES_MAX:
        raise FrameTooLarge(
            f"a frame of {head} + {body} bytes: at most {HEAD_BYTES_MAX} + {BODY_BYTES_MAX}"
        )
    return head, body


def raw_of(array: np.ndarray, datatype: str) -> bytes:
    """The array's elements, little-endian and row-major."""
    return np.ascontiguousarray(array, DTYPES[datatype]).tobytes()
