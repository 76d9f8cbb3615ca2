"""The control door: `loom.v1.Runtime`, for the deployment service and nobody else."""

from collections.abc import AsyncIterator

from google.protobuf.message import Message

from loom.kit.call import Call
from loom.kit.errors import Failure
from loom.kit.routes import Route
from loom.v1 import deployment_pb2, runtime_pb2
from loomos.runtime.models import Models, Served, served_name

__all__ = ["Control"]

MASTER = "service:deployment"


class Control:
    """Obeys orders about what is served."""

    def __init__(self, models: Models, rest_url: str, grpc_address: str) -> None:
        self.models = models
        self.rest_url = rest_url
        self.grpc_address = grpc_address

    async def tell(self, request: Message, call: Call) -> Message:
        """Obey one order."""
        only_master(call)
        match request:
            case runtime_pb2.LoadModelRequest():
                isolation = await self.models.load(request)
                return runtime_pb2.LoadModelResponse(endpoint=self._endpoint(request, isolation))
            case runtime_pb2.UnloadModelRequest():
                await self.models.unload(request.deployment_id, request.revision)
                return runtime_pb2.UnloadModelResponse()
            case _:
                raise Failure("UNIMPLEMENTED", f"{request.DESCRIPTOR.name} is no order")

    async def refuse(self, route: Route, data: bytes, failure: Failure, call: Call) -> None:
        """An edge has no log of its own; the one caller that there is records its failures."""

    async def ask(self, method: str, request: Message, call: Call) -> Message:
        """What is served."""
        only_master(call)
        served = sorted(
            self.models.served.values(),
            key=lambda one: (served_name(one.order), one.order.version, one.order.deployment_id),
        )
        return runtime_pb2.ListServedModelsResponse(models=[self._shown(one) for one in served])

    async def stream(
        self, method: str, requests: AsyncIterator[Message], call: Call
    ) -> AsyncIterator[Message]:
        """The contract has no streams."""
        raise Failure("UNIMPLEMENTED", f"{method} is no stream")
        yield

    def _endpoint(
        self, order: runtime_pb2.LoadModelRequest, isolation: list[str]
    ) -> deployment_pb2.Endpoint:
        return deployment_pb2.Endpoint(
            served_name=served_name(order),
            rest_url=self.rest_url,
            grpc_address=self.grpc_address,
            isolation=isolation,
        )

    def _shown(self, one: Served) -> runtime_pb2.ServedModel:
        worker = one.replica.process
        return runtime_pb2.ServedModel(
            deployment_id=one.order.deployment_id,
            revision=one.order.revision,
            version=one.order.version,
            environment=one.order.environment,
            endpoint=self._endpoint(one.order, list(worker.isolation) if worker else []),
            ready=one.replica.ready,
            restarts=one.replica.restarts,
            failure=one.replica.failure,
        )


def only_master(call: Call) -> None:
    """Refuse everybody but the deployment service, known by its certificate."""
    if call.caller.principal != MASTER:
        raise Failure("PERMISSION_DENIED", f"{call.caller.principal} gives no orders to a runtime")
