"""Runs the windows: a faust application over `loomos.telemetry` inside our own loop.

1. Faust does only what may be lost or doubled: figures, and reports that say the same when said
   twice, because a report's command id is its GPU, its window and what it says.
2. The resource manager being away costs reports, never the windows.
"""

import asyncio
import contextlib
import hashlib
import logging
import signal
import ssl
from typing import Any

import faust
from prometheus_client import Counter, Gauge

from loom.kit import observe
from loom.kit.client import Client
from loom.kit.config import Settings, supervised
from loom.kit.errors import Failure
from loom.kit.rpc import serve_health
from loom.log.publisher import TELEMETRY_TOPIC
from loom.v1 import resource_manager_pb2 as rm
from loomos.telemetry import window as windows

PREFIX = "loomos-telemetry-"
WINDOW_SECONDS = 10
KEPT_SECONDS = 60
REPORTS_MAX = 256
GAUGES = {
    "utilisation": Gauge("loomos_gpu_utilisation_percent", "Mean of the window", ["node", "gpu"]),
    "temperature": Gauge(
        "loomos_gpu_temperature_celsius", "Highest of the window", ["node", "gpu"]
    ),
    "memory": Gauge("loomos_gpu_memory_used_bytes", "Highest of the window", ["node", "gpu"]),
    "power": Gauge("loomos_gpu_power_watts", "Highest of the window", ["node", "gpu"]),
}
SAMPLES = Counter("loomos_gpu_samples", "Samples folded into windows")
REFUSED = Counter("loomos_gpu_samples_refused", "Records that are no sample")


async def run(settings: Settings) -> None:
    """Folds telemetry until SIGTERM or SIGINT."""
    observe.start(settings)
    for name in ("faust", "mode"):
        logging.getLogger(name).setLevel(logging.WARNING)
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    client = Client(settings, lambda service, _: _resolve(settings, service))
    reports: asyncio.Queue[rm.ReportNodeHealthRequest] = asyncio.Queue(REPORTS_MAX)
    app = application(settings, reports)
    reporting = asyncio.create_task(report(client, reports))
    async with observe.MetricsDoor(settings) as door:
        await app.start()
        served = await serve_health(settings)
        observe.logger("telemetry").info("serving", metrics=door.address)
        try:
            await stopping.wait()
        finally:
            await served.stop(0)
            await app.stop()
            reporting.cancel()
            await client.close()


def application(
    settings: Settings, reports: "asyncio.Queue[rm.ReportNodeHealthRequest]"
) -> faust.App:
    """The faust application; alarms of its windows go into `reports`."""
    app = faust.App(
        f"{PREFIX}windows",
        broker=[f"kafka://{address}" for address in settings.kafka.split(",")],
        broker_credentials=_credentials(settings),
        store="memory://",
        datadir=str(settings.home / "telemetry"),
        web_enabled=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        topic_replication_factor=1,
        broker_commit_interval=5.0,
        # A killed process's place in the group is given away after this long, not after a minute.
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
    )
    source = app.topic(TELEMETRY_TOPIC, key_serializer="raw", value_serializer="raw")
    table: Any = app.Table("gpu", default=dict, partitions=settings.partitions)
    table = table.tumbling(WINDOW_SECONDS, expires=KEPT_SECONDS)
    told: dict[str, bytes] = {}

    async def fold(stream: Any) -> None:
        async for event in stream.events():
            try:
                sample = windows.parse(event.value)
            except windows.BadSample as error:
                REFUSED.inc()
                observe.logger("telemetry").warning("sample refused", reason=str(error))
                continue
            key = f"{sample['node_id']}/{sample['uuid']}"
            folded = windows.fold(table[key].value(), sample)
            table[key] = folded
            _show(sample, folded)
            begin = int(event.message.timestamp // WINDOW_SECONDS) * WINDOW_SECONDS
            _alarm(sample, folded, begin, told, reports)

    app.agent(source)(fold)
    return app


async def report(client: Client, reports: "asyncio.Queue[rm.ReportNodeHealthRequest]") -> None:
    """Tells the resource manager what the windows found."""
    while True:
        request = await reports.get()
        digest = hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()
        try:
            await client.tell(request, command_id=f"health-{digest[:40]}")
        except Failure as failure:
            observe.logger("telemetry").warning(
                "health not reported", code=failure.code, error=str(failure)
            )


def _show(sample: dict[str, Any], window: dict[str, Any]) -> None:
    SAMPLES.inc()
    names = (sample["node_id"], sample["uuid"])
    GAUGES["utilisation"].labels(*names).set(window["utilisation_sum"] / window["samples"])
    GAUGES["temperature"].labels(*names).set(window["temperature_celsius_max"])
    GAUGES["memory"].labels(*names).set(window["memory_used_bytes_max"])
    GAUGES["power"].labels(*names).set(window["power_milliwatts_max"] / 1000)


def _alarm(
    sample: dict[str, Any],
    window: dict[str, Any],
    begin: int,
    told: dict[str, bytes],
    reports: "asyncio.Queue[rm.ReportNodeHealthRequest]",
) -> None:
    """Queues a report as soon as a window says something that was not said of it yet."""
    health = windows.health(sample["uuid"], window)
    if health is None:
        return
    request = rm.ReportNodeHealthRequest(
        node_id=sample["node_id"], gpus=[health], window_end_us=(begin + WINDOW_SECONDS) * 1_000_000
    )
    said = request.SerializeToString(deterministic=True)
    if told.get(sample["uuid"]) != said:
        told[sample["uuid"]] = said
        with contextlib.suppress(asyncio.QueueFull):
            reports.put_nowait(request)


def _credentials(settings: Settings) -> Any:
    if settings.kafka_security == "SSL":
        context = ssl.create_default_context(cafile=str(settings.ca_certificate))
        context.load_cert_chain(str(settings.tls_certificate), str(settings.tls_key))
        return context
    inside_tls = settings.kafka_security == "SASL_SSL"
    return faust.SASLCredentials(
        username=settings.kafka_user,
        password=settings.kafka_password,
        mechanism="SCRAM-SHA-512",
        ssl_context=(
            ssl.create_default_context(cafile=str(settings.ca_certificate)) if inside_tls else None
        ),
    )


async def _resolve(settings: Settings, service: str) -> str:
    services = supervised(settings.home).get("services") or {}
    return str((services.get(service) or {}).get("address", ""))
