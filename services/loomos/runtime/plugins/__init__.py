"""What a plugin that serves a framework's models must fit, named by an entry point.

1. A plugin is platform code: it is imported before the worker gives up its rights. The files that
   it loads are a tenant's: it reads them without executing anything in them, never by unpickling.
2. `infer` is pure: same inputs, same outputs; it sees rows of several requests in one batch.
"""

from collections.abc import Mapping
from typing import IO, NamedTuple, Protocol

import numpy as np

__all__ = ["BadModel", "Model", "Plugin", "TensorSpec"]


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
