"""The RPCs of a contract as data: the one table that servers, clients and the gateway read.

1. One request type per RPC, so a request names its RPC.
2. The shard is the contract's shard field, else what the request's first id names.
"""

from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import NamedTuple

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import (
    Descriptor,
    MethodDescriptor,
    ServiceDescriptor,
)
from google.protobuf.message import Message

from loom.kit.contract import shard_named
from loom.kit.descriptors import contract_of, rpc_of

__all__ = ["Route", "route_of", "route_to", "routes_of", "shard_in"]


class Route(NamedTuple):
    """One RPC of a contract."""

    service: str
    """The contract's name, e.g. `resource-manager`."""
    shard: str
    """The field that names the shard."""
    method: str
    """`SubmitJob`"""
    path: str
    """`/loom.v1.Scheduler/SubmitJob`"""
    request: type[Message]
    response: type[Message]
    query: bool
    streams_in: bool
    streams_out: bool
    anonymous: bool
    internal: bool
    http_status: int

    @property
    def unary(self) -> bool:
        """True where one request has one answer."""
        return not (self.streams_in or self.streams_out)


def routes_of(contract: ModuleType) -> tuple[Route, ...]:
    """All RPCs that a compiled contract declares."""
    services = contract.DESCRIPTOR.services_by_name.values()
    return tuple(route for service in services for route in of_service(service))


def of_service(service: ServiceDescriptor) -> Iterator[Route]:
    """The RPCs of one gRPC service."""
    for method in service.methods:
        yield route(method)


@cache
def route(method: MethodDescriptor) -> Route:
    """What the doors must know of one RPC."""
    service = method.containing_service
    contract = contract_of(service)
    options = method.GetOptions()
    rpc = rpc_of(method)
    return Route(
        service=contract.name,
        shard=contract.shard,
        method=method.name,
        path=f"/{service.full_name}/{method.name}",
        request=message_factory.GetMessageClass(method.input_type),
        response=message_factory.GetMessageClass(method.output_type),
        query=options.idempotency_level == options.NO_SIDE_EFFECTS,
        streams_in=method.client_streaming,
        streams_out=method.server_streaming,
        anonymous=rpc.anonymous,
        internal=rpc.internal,
        http_status=rpc.http_status,
    )


@cache
def route_of(request: Descriptor) -> Route:
    """The RPC whose request this type is; raises LookupError where there is none."""
    for service in request.file.services_by_name.values():
        for method in service.methods:
            if method.input_type is request:
                return route(method)
    raise LookupError(f"{request.full_name} is the request of no RPC of its own file")


def route_to(path: str) -> Route:
    """The RPC at a path such as `/loom.v1.Scheduler/FollowJob`; raises LookupError."""
    service, _, name = path.lstrip("/").rpartition("/")
    try:
        methods = descriptor_pool.Default().FindServiceByName(service).methods_by_name
    except KeyError as error:
        raise LookupError(f"no contract declares the service {service!r}") from error
    if name not in methods:
        raise LookupError(f"{service} has no RPC {name!r}")
    return route(methods[name])


def shard_in(request: Message, route: Route) -> str:
    """The shard that a request addresses; "" where it names none."""
    named = shard_named(request, route.shard)
    if named or route.shard != "organisation_id":
        return named
    # A project's id begins with its organisation's.
    if "project_id" in request.DESCRIPTOR.fields_by_name:
        return str(getattr(request, "project_id", "")).partition(".")[0]
    return ""
