"""What a plugin that serves a framework's models must fit, named by an entry point.

1. A plugin is platform code: it is imported before the worker gives up its rights. The files that
   it loads are a tenant's: it reads them without executing anything in them, never by unpickling.
2. `infer` is pure: same inputs, same outputs; it sees rows of several requests in one batch.
"""

from collections.abc import Mapping
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

__all__ = ["DTYPES", "BadModel", "Model", "Plugin", "TensorSpec"]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
"""The protocol's fixed-size element types; BYTES and BF16 are in no model served here."""


class BadModel(Exception):
    """A model's files cannot be served; the message says which and why."""


class TensorSpec(NamedTuple):
    """A tensor as the protocol describes it; dimension 0 counts rows and is -1."""

    name: str
    datatype: str
    shape: tuple[int, ...]


class Model(Protocol):
    """A loaded model."""

    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    batch_rows_max: int

    def infer(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The outputs of these rows, each with as many rows."""
        ...


class Plugin(Protocol):
    """What an entry point of the group `loomos.runtime.plugins` gives."""

    def load(self, files: Mapping[str, IO[bytes]]) -> Model:
        """The model in these files, by path; raises BadModel."""
        ...
