"""What both inference doors share: who calls, which model answers, and the answer itself.

Every call is authenticated, health included; a model that the caller may not use is unknown.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import numpy as np

from loom.decider import Resource
from loom.kit.call import bearer_in
from loom.kit.caller import Caller
from loom.kit.errors import Failure, shown
from loomos.runtime.models import Models, Served, served_name, unknown
from loomos.runtime.plugins import TensorSpec
from loomos.runtime.tensors import Given, arrays_of, bad

__all__ = ["EXTENSIONS", "REQUEST_BYTES_MAX", "SERVER_NAME", "SERVER_VERSION", "Answer", "Door"]

SERVER_NAME = "loomos"
SERVER_VERSION = "0.1.0"
EXTENSIONS = ("binary_tensor_data",)
REQUEST_BYTES_MAX = 16 * 1024 * 1024
INFER, DESCRIBE = "ModelInfer", "ModelMetadata"


class Answer(NamedTuple):
    """The outputs of an inference, in the order asked for."""

    name: str
    version: str
    outputs: list[tuple[TensorSpec, np.ndarray]]


class Door:
    """Inference for authenticated callers."""

    def __init__(
        self,
        models: Models,
        authenticate: Callable[[str | None, str | None], Awaitable[Caller]],
    ) -> None:
        self.models = models
        self._authenticate = authenticate

    async def caller(self, authorization: str) -> Caller:
        """Who calls, by the signed token in the header; raises Failure UNAUTHENTICATED."""
        if not authorization:
            raise Failure("UNAUTHENTICATED", "authorization is missing: send `Bearer` and a token")
        return await self._authenticate(None, bearer_in(authorization))

    def find(self, caller: Caller, name: str, version: str, action: str = DESCRIBE) -> Served:
        """The model that answers, if the caller may use it; raises Failure NOT_FOUND."""
        served = self.models.find(name, version)
        if not caller.may(action, Resource("project", served.order.project_id)).allowed:
            raise unknown(name, version)
        return served

    async def infer(
        self,
        caller: Caller,
        name: str,
        version: str,
        given: Sequence[Given],
        wanted: Sequence[str],
    ) -> Answer:
        """One inference; raises Failure."""
        served = self.find(caller, name, version, INFER)
        worker = served.replica.worker()
        specs = {spec.name: spec for spec in worker.outputs}
        for index, output in enumerate(wanted):
            if output not in specs or output in wanted[:index]:
                raise bad(
                    f"outputs[{index}].name",
                    f"{shown(output)}: the model gives {sorted(specs)}, each once",
                )
        outputs = await served.replica.infer(arrays_of(given, worker.inputs))
        names = wanted or list(specs)
        found = [(specs[one], outputs[one]) for one in names]
        return Answer(served_name(served.order), served.version, found)
