"""What a process tells about itself: JSON logs on stdout, spans, metrics on a port of their own.

1. Secrets never leave: keys that name one and values that look like one are blanked.
2. A correlation id stands in each line that a call caused; spans link by W3C traceparent.
3. Spans are exported only where LOOMOS_OTLP says so; the SDK is not even imported otherwise.
4. `/metrics` answers a certificate of our authority or the token in `metrics.token`, else 401.
"""

import asyncio
import hmac
import logging
import re
import secrets
import ssl
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import structlog
from prometheus_client import REGISTRY as METRICS
from prometheus_client import CollectorRegistry, generate_latest

from loom.kit import tls
from loom.kit.config import Settings

__all__ = ["METRICS", "MetricsDoor", "correlated", "logger", "span", "start", "stop", "traceparent"]

SECRET_KEY = re.compile(
    r"passw|secret|token|authori[sz]ation$|api_?key|credential|private|cookie|dsn", re.IGNORECASE
)
SECRET_VALUE = re.compile(
    r"\bl[a-z]_[A-Za-z0-9-]+_[A-Za-z0-9_-]{20,}"
    r"|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*"
    r"|(?i:bearer) +[A-Za-z0-9._~+/=-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|$)"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)",
    re.DOTALL,
)
BLANK = "[secret]"
TRACEPARENT = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
REQUEST_BYTES_MAX = 16 * 1024
REQUEST_SECONDS_MAX = 10.0
CONNECTIONS_MAX = 32

TRACE: ContextVar[str] = ContextVar("loom_traceparent", default="")
TRACER: list[Any] = []
"""The SDK's tracer and provider once an exporter is configured; spans only pass through before."""


def start(settings: Settings) -> structlog.stdlib.BoundLogger:
    """Set logs and spans up for this process; the logger returned names the service."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        scrub,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    level = logging.getLevelName(settings.log_level.upper())
    logging.basicConfig(handlers=[handler], level=level, force=True)
    for talkative in ("aiokafka", "httpx", "httpcore", "uvicorn"):
        logging.getLogger(talkative).setLevel(max(level, logging.WARNING))
    structlog.contextvars.bind_contextvars(service=settings.service)
    if settings.otlp and not TRACER:
        export_spans(settings)
    return logger(settings.service)


def stop() -> None:
    """Send the spans that wait for export."""
    while TRACER:
        TRACER.pop().shutdown()
        TRACER.clear()


def logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module or service."""
    return structlog.stdlib.get_logger(name)


def scrub(_: Any, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank secrets in a log line, at any depth."""
    return {key: BLANK if SECRET_KEY.search(key) else blanked(line[key]) for key in line}


def blanked(value: Any) -> Any:
    """The value without secrets."""
    match value:
        case str():
            return SECRET_VALUE.sub(BLANK, value)
        case bytes():
            return f"{len(value)} bytes"
        case Mapping():
            return {
                key: BLANK if SECRET_KEY.search(str(key)) else blanked(value[key]) for key in value
            }
        case list() | tuple() | set() | frozenset():
            return [blanked(one) for one in value]
        case BaseException():
            return SECRET_VALUE.sub(BLANK, f"{type(value).__name__}: {value}")
        case _:
            return value


@contextmanager
def correlated(correlation_id: str) -> Iterator[None]:
    """Put a correlation id into each log line of this block and of the tasks it starts."""
    with structlog.contextvars.bound_contextvars(correlation_id=correlation_id):
        yield


def export_spans(settings: Settings) -> None:
    """Export spans to the configured collector."""
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": settings.service}))
    secure = settings.otlp.startswith("https://")
    exporter = OTLPSpanExporter(endpoint=settings.otlp, insecure=not secure)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    TRACER[:] = [provider.get_tracer("loomos"), provider]


def traceparent() -> str:
    """The traceparent of the span that this code runs in; "" outside of any."""
    return TRACE.get()


@contextmanager
def span(name: str, parent: str = "", **attributes: str | int) -> Iterator[None]:
    """Run a block as a span under `parent` (a traceparent), else under the one around it."""
    above = parent if TRACEPARENT.fullmatch(parent) else TRACE.get()
    if TRACER:
        with recorded(name, above, attributes) as own:
            token = TRACE.set(own)
            try:
                yield
            finally:
                TRACE.reset(token)
        return
    token = TRACE.set(above or f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-00")
    try:
        yield
    finally:
        TRACE.reset(token)


@contextmanager
def recorded(name: str, above: str, attributes: Mapping[str, str | int]) -> Iterator[str]:
    """A span of the SDK; yields its traceparent."""
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    carrier = TraceContextTextMapPropagator()
    context = carrier.extract({"traceparent": above}) if above else None
    with TRACER[0].start_as_current_span(name, context=context, attributes=dict(attributes)):
        headers: dict[str, str] = {}
        carrier.inject(headers)
        yield headers.get("traceparent", above)


class MetricsDoor:
    """Serves `/metrics` over TLS to Prometheus; `address` is known once it is open."""

    def __init__(self, settings: Settings, registry: CollectorRegistry = METRICS) -> None:
        self.settings = settings
        self.registry = registry
        self.address = ""
        self.connections = 0

    async def __aenter__(self) -> "MetricsDoor":
        context = tls.server_context(self.settings, client_certificates=True)
        host, _, port = self.settings.metrics_listen.rpartition(":")
        self.server = await asyncio.start_server(
            self.answer, host.strip("[]"), int(port), ssl=context, limit=REQUEST_BYTES_MAX
        )
        self.address = f"{host}:{self.server.sockets[0].getsockname()[1]}"
        self.renewal = asyncio.create_task(tls.renew(context, self.settings))
        return self

    async def __aexit__(self, *_: object) -> None:
        self.renewal.cancel()
        self.server.close()
        await asyncio.gather(self.renewal, return_exceptions=True)

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request and close; what does not come in time is dropped."""
        self.connections += 1
        try:
            if self.connections > CONNECTIONS_MAX:
                return
            async with asyncio.timeout(REQUEST_SECONDS_MAX):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(self.response(head, writer.get_extra_info("ssl_object")))
                await writer.drain()
        except (
            TimeoutError,
            OSError,
            ssl.SSLError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
        ) as error:
            logger("metrics").debug("request dropped", error=error)
        finally:
            self.connections -= 1
            writer.close()

    def response(self, head: bytes, connection: ssl.SSLObject | None) -> bytes:
        """The whole HTTP answer to a request's head."""
        line, *fields = head.decode("latin-1").split("\r\n")
        certificate = connection.getpeercert() if connection is not None else None
        if not (tls.peer_of(certificate) or self.knows(fields)):
            return answer("401 Unauthorized", b"credentials are needed\n", "text/plain")
        if line.split(" ")[:2] != ["GET", "/metrics"]:
            return answer("404 Not Found", b"there is /metrics only\n", "text/plain")
        return answer("200 OK", generate_latest(self.registry), "text/plain; version=0.0.4")

    def knows(self, fields: list[str]) -> bool:
        """True where the request carries the token of the credentials folder."""
        try:
            token = (self.settings.credentials / "metrics.token").read_text().strip()
        except OSError:
            return False
        given = [value for name, _, value in (f.partition(":") for f in fields)
                 if name.strip().lower() == "authorization"]  # fmt: skip
        wanted = f"Bearer {token}".encode()
        return bool(
            token
            and len(given) == 1
            and hmac.compare_digest(given[0].strip().encode("latin-1"), wanted)
        )


def answer(status: str, body: bytes, media_type: str) -> bytes:
    """An HTTP/1.1 answer after which the connection closes."""
    challenge = "WWW-Authenticate: Bearer\r\n" if status.startswith("401") else ""
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
        f"{challenge}X-Content-Type-Options: nosniff\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
