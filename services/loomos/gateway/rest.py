"""The REST doors: one route per HTTP binding of the contracts, all by one function.

1. A caller's token is passed on; without one only the anonymous RPCs are reached, and slowly.
2. Every answer carries a correlation id; every failure is a problem document (RFC 9457).
3. Bodies are JSON up to 4 MiB, said to be JSON: a form in a strange page cannot send one.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.message import Message
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from loom.decider import Position
from loom.kit import observe
from loom.kit.call import ID, MOMENT, Headers, new_command_id
from loom.kit.client import Client
from loom.kit.descriptors import described
from loom.kit.errors import Failure, Violation, failure_of, problem, shown
from loom.kit.validate import REQUEST_BYTES_MAX
from loom.v1 import common_pb2
from loomos.gateway import asyncapi, flow, tlog
from loomos.gateway.identity import Identities, Rates
from loomos.gateway.openapi import comments_in, document
from loomos.gateway.transcode import Binding, bindings, request_of, to_json

__all__ = ["Rest"]

DOCS = Path(__file__).parent / "docs.html"
CALL_SECONDS_MAX = 30.0
BODY_SECONDS_MAX = 30.0
POSITION = re.compile(r"([a-z][a-z0-9.-]{0,100}):([0-9]{1,5}):([0-9]{1,18})(?::([0-9]{1,9}))?")
HEADERS = {
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; "
    "script-src 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
}


class Rest:
    """The application and what its routes share."""

    def __init__(
        self, client: Client, files: Sequence[FileDescriptor], commented: Sequence[bytes]
    ) -> None:
        self.client = client
        self.log = observe.logger("rest")
        self.identities = Identities(client.tell)
        self.strangers = Rates(burst=20, per_second=2)
        self.bindings = bindings(files)
        self.comments = comments_in(commented)
        self.app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
        for path, answer in (
            ("/healthz", self.health),
            ("/openapi.json", self.openapi),
            ("/asyncapi.json", self.asyncapi),
            ("/docs", self.docs),
            ("/docs.js", self.script),
        ):
            self.app.add_api_route(path, answer, include_in_schema=False, response_model=None)
        for binding in self.bindings:
            self.app.router.add_route(binding.pattern, self.endpoint(binding), [binding.verb])
        self.app.router.add_route(tlog.PATH, self.tlog, ["GET"])
        self.app.add_exception_handler(HTTPException, self.unrouted)
        self.asgi: ASGIApp = headed(self.app)

    def endpoint(self, binding: Binding) -> Any:
        """The route's function."""

        async def answer(request: Request) -> Response:
            correlation_id = ""
            try:
                correlation_id = given_id(request, "x-correlation-id") or new_command_id()
                with (
                    observe.correlated(correlation_id),
                    observe.span(
                        f"{binding.verb} {binding.template}",
                        request.headers.get("traceparent", ""),
                    ),
                ):
                    return await self.called(binding, request, correlation_id)
            except Exception as error:  # noqa: BLE001 - the last fence: nothing else answers
                return self.failed(error, correlation_id or new_command_id(), binding)

        return answer

    async def called(self, binding: Binding, request: Request, correlation_id: str) -> Response:
        """Make the RPC that a request asks for, and answer what it answers."""
        bearer = await self.bearer(request, binding.route.anonymous)
        after, query = positions_in(request, binding)
        as_of, query = moment_in(query, binding)
        body = await body_of(request)
        try:
            message = request_of(binding, request.path_params, query, body)
        except Failure as failure:
            if binding.route.query or binding.route.streams_out or not bearer:
                raise
            # A command of somebody known: the refusal belongs into the log.
            given = Headers(correlation_id=correlation_id, bearer=bearer)
            raise await self.client.report(
                binding.route, body, failure, given, CALL_SECONDS_MAX
            ) from failure
        if binding.route.anonymous and not binding.route.query:
            # Who logs in or joins is not yet anyone: an old token must not speak for him.
            bearer = ""
        if binding.route.streams_out:
            return await self.poured(binding, request, message, bearer, correlation_id)
        if binding.route.query:
            answer = await self.client.ask(
                message,
                after=after,
                as_of=as_of,
                bearer=bearer,
                correlation_id=correlation_id,
                timeout_s=CALL_SECONDS_MAX,
            )
        else:
            answer = await self.client.tell(
                message,
                command_id=given_id(request, "idempotency-key"),
                correlation_id=correlation_id,
                bearer=bearer,
                timeout_s=CALL_SECONDS_MAX,
                after=after,
            )
        return answered(binding, answer, correlation_id)

    async def bearer(self, request: Request, anonymous: bool) -> str:
        """The token of a call, "" for a stranger, who is let in slowly and by few doors."""
        address = request.client.host if request.client else "nowhere"
        headers = request.headers
        bearer = await self.identities.bearer(
            headers.getlist("authorization"), headers.getlist("x-api-key"), address
        )
        if not bearer:
            if not anonymous:
                raise Failure("UNAUTHENTICATED", "send Authorization: Bearer … or X-API-Key")
            self.strangers.take(address)
        return bearer

    async def poured(
        self,
        binding: Binding,
        request: Request,
        message: Message,
        bearer: str,
        correlation_id: str,
    ) -> Response:
        """The answers of a streaming RPC as lines, events or text."""
        form = flow.form_of(request.headers.get("accept", ""), described(binding.route.response))
        flow.resumed(message, request.headers.get("last-event-id", ""))
        answers = self.client.stream(message, bearer=bearer, correlation_id=correlation_id)
        first = await flow.first_of(answers)

        def failed(error: Exception) -> dict[str, Any]:
            return problem(self.known(error, correlation_id, binding), correlation_id)

        lines: AsyncIterator[bytes] = flow.lines(form, first, answers, failed)
        return StreamingResponse(
            lines,
            media_type=form,
            headers={"x-correlation-id": correlation_id, "x-accel-buffering": "no"},
        )

    async def tlog(self, request: Request) -> Response:
        """A file of a hash tree."""
        try:
            bearer = await self.bearer(request, anonymous=True)
            return await tlog.tree_file(request, self.client, bearer)
        except Exception as error:  # noqa: BLE001 - the last fence: nothing else answers
            correlation_id = new_command_id()
            return refusal(failure_of(error, correlation_id), correlation_id)

    def known(self, error: BaseException, correlation_id: str, binding: Binding) -> Failure:
        """The failure to tell; what was not foreseen is logged."""
        failure = failure_of(error, correlation_id)
        if failure is not error and failure.code == "INTERNAL":
            self.log.error(
                "call failed",
                route=binding.template,
                correlation_id=correlation_id,
                exc_info=error,
            )
        return failure

    def failed(self, error: Exception, correlation_id: str, binding: Binding) -> Response:
        """The problem document of a call that did not succeed."""
        return refusal(self.known(error, correlation_id, binding), correlation_id)

    async def unrouted(self, request: Request, error: Exception) -> Response:
        """What the router answers by itself, as a problem document."""
        assert isinstance(error, HTTPException)
        code = {404: "NOT_FOUND", 405: "UNIMPLEMENTED"}.get(error.status_code, "INVALID_ARGUMENT")
        told = f"there is no {request.method} {shown(request.url.path)}: see /docs"
        failure = Failure(code, told, http_status=error.status_code)
        return refusal(failure, new_command_id())

    async def health(self) -> Response:
        """Says that the process answers, and nothing else."""
        return JSONResponse({"status": "SERVING"})

    async def openapi(self, request: Request) -> Response:
        """The document of all routes."""
        server = f"{request.url.scheme}://{request.url.netloc}"
        return JSONResponse(document(self.bindings, self.comments, server))

    async def asyncapi(self, request: Request) -> Response:
        """The document of all events."""
        return JSONResponse(asyncapi.document(self.comments, request.url.netloc))

    async def docs(self) -> Response:
        """A page that shows the document."""
        return HTMLResponse(DOCS.read_text())

    async def script(self) -> Response:
        """The page's script."""
        return Response(DOCS.with_suffix(".js").read_text(), media_type="text/javascript")


def headed(app: ASGIApp) -> ASGIApp:
    """The application with security headers on every answer; what an answer says itself stands."""
    pairs = [(name.encode(), value.encode()) for name, value in HEADERS.items()]

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(event: Event) -> None:
            if event["type"] == "http.response.start":
                own = list(event.get("headers", ()))
                said = {name for name, _ in own}
                event["headers"] = own + [pair for pair in pairs if pair[0] not in said]
            await send(event)

        await app(scope, receive, with_headers)

    return outer


def given_id(request: Request, name: str) -> str:
    """An id from a header, "" where it is absent; raises Failure INVALID_ARGUMENT."""
    values = request.headers.getlist(name)
    if not values:
        return ""
    if len(values) > 1 or not ID.fullmatch(values[0]):
        why = f"is {shown(', '.join(values))}: want one, 1 to 64 of A-Z a-z 0-9 . _ : -"
        raise Failure("INVALID_ARGUMENT", f"{name} {why}", violations=[Violation(name, why, "id")])
    return values[0]


def positions_in(
    request: Request, binding: Binding
) -> tuple[tuple[Position, ...], list[tuple[str, str]]]:
    """The positions that an answer must have seen, and the query without them."""
    own = "after" in described(binding.route.request).fields_by_name
    query = request.query_params.multi_items()
    given = list(request.headers.getlist("x-loomos-after"))
    if not own:
        given += [value for name, value in query if name == "after"]
        query = [(name, value) for name, value in query if name != "after"]
    found: list[Position] = []
    for text in ",".join(given).split(",") if given else ():
        form = POSITION.fullmatch(text.strip())
        if form is None:
            why = f"is {shown(text)}: want topic:partition:offset or …:incarnation"
            raise Failure("INVALID_ARGUMENT", f"after {why}", violations=[Violation("after", why)])
        topic, partition, offset, incarnation = form.groups(default="0")
        found.append(Position(topic, int(partition), int(offset), int(incarnation)))
    return tuple(found), query


def moment_in(query: list[tuple[str, str]], binding: Binding) -> tuple[str, list[tuple[str, str]]]:
    """The moment as of which a query is answered, and the rest; requests may have the field."""
    route = binding.route
    if not route.query or route.streams_out or "as_of" in described(route.request).fields_by_name:
        return "", query
    given = [value for name, value in query if name == "as_of"]
    if len(given) > 1 or not all(MOMENT.fullmatch(value) for value in given):
        why = f"is {shown(', '.join(given))}: want one time, position or event's id"
        raise Failure("INVALID_ARGUMENT", f"as_of {why}", violations=[Violation("as_of", why)])
    return "".join(given), [(name, value) for name, value in query if name != "as_of"]


async def body_of(request: Request) -> bytes:
    """The body, which must be small, plain and JSON."""
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(BODY_SECONDS_MAX):
        async for part in request.stream():
            size += len(part)
            if size > REQUEST_BYTES_MAX:
                told = f"the body is larger than {REQUEST_BYTES_MAX} bytes"
                raise Failure("INVALID_ARGUMENT", told, "body", http_status=413)
            parts.append(part)
    if size == 0:
        return b""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        told = f"Content-Type is {shown(kind)}: want application/json"
        raise Failure("INVALID_ARGUMENT", told, http_status=415)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise Failure("INVALID_ARGUMENT", "send the body without Content-Encoding", http_status=415)
    return b"".join(parts)


def answered(binding: Binding, answer: Message, correlation_id: str) -> Response:
    """The HTTP answer of a unary RPC that succeeded."""
    headers = {"x-correlation-id": correlation_id}
    receipt = receipt_in(answer)
    if receipt is not None:
        if receipt.correlation_id:
            headers["x-correlation-id"] = receipt.correlation_id
        if receipt.positions:
            headers["x-loomos-position"] = ",".join(
                f"{one.topic}:{one.partition}:{one.offset}:{one.incarnation}"
                for one in receipt.positions
            )
    status = binding.route.http_status or 200
    if status == 204:
        return Response(status_code=204, headers=headers)
    content: Any = to_json(answer)
    if binding.response_body:
        content = content.get(binding.response_body)
    return JSONResponse(content, status_code=status, headers=headers)


def receipt_in(answer: Message) -> common_pb2.Receipt | None:
    """The receipt that an answer is or carries."""
    if isinstance(answer, common_pb2.Receipt):
        return answer
    receipt = getattr(answer, "receipt", None)
    return receipt if isinstance(receipt, common_pb2.Receipt) else None


def refusal(failure: Failure, correlation_id: str) -> Response:
    """A failure as a problem document."""
    headers = {"x-correlation-id": correlation_id}
    if failure.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(
        json.dumps(problem(failure, correlation_id), ensure_ascii=False),
        status_code=failure.http_status,
        media_type="application/problem+json",
        headers=headers,
    )
