"""Alerts on the real stores: a failure in production, who is told, and what is tried again."""

import asyncio
import base64
import contextlib
import datetime
import hmac
import ipaddress
import json
import ssl
import uuid

import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiosmtpd.smtp import SMTP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from test_notary_service import Judge, caller, eventually, tell, write

from loom.kit.call import Call
from loom.kit.errors import Failure
from loom.kit.service import Shell
from loom.log import envelope
from loom.log.clock import now_us
from loom.log.envelope import Origin
from loom.log.topics import connection
from loom.v1 import data_pb2, deployment_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.data.main import SERVICE as DATA
from loomos.loomdb import query
from loomos.loomdb.effect.alert_notify import notify
from loomos.loomdb.main import SERVICE
from loomos.loomdb.plugins import outbound
from loomos.loomdb.stream import tail_of, watch_alerts

pytestmark = [pytest.mark.bus, pytest.mark.db]
KEY = "a-key-of-more-than-sixteen-bytes"
ROUTING_KEY = "0123456789abcdef0123456789abcdef"
ACME = caller("acme")


class Everywhere(Judge):
    """The services' own view: it is never behind and never moves."""

    class view:
        version = 1

    def stale(self):
        return False


@pytest.fixture
def certificate(tmp_path):
    """A certificate of its own authority for this machine: the file, and a server's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path / "server.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    authority = tmp_path / "authority.pem"
    authority.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(file))
    return authority, context


class Place:
    """An HTTPS server that keeps what it is told, and answers as it was bidden."""

    def __init__(self):
        self.told = []
        self.answers = []
        self.hangs = asyncio.Event()
        self.port = 0

    async def serve(self, reader, writer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
            headers = dict(line.lower().split(": ", 1) for line in head[1:] if line)
            body = await reader.readexactly(int(headers["content-length"]))
            path = head[0].split()[1]
            self.told.append((path, headers, body))
            if path == "/hang":
                await self.hangs.wait()
            answer = self.answers.pop(0) if self.answers else b"HTTP/1.1 202 Accepted\r\n"
            writer.write(answer + b"content-length: 0\r\nconnection: close\r\n\r\n")
            await writer.drain()
        writer.close()

    def at(self, path):
        """What was told there."""
        return [(headers, json.loads(body)) for where, headers, body in self.told if where == path]


@pytest.fixture
async def place(certificate):
    made = Place()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=certificate[1])
    made.port = server.sockets[0].getsockname()[1]
    yield made
    made.hangs.set()
    server.close()
    await server.wait_closed()


class Mailbox:
    """What the relay took."""

    def __init__(self):
        self.messages = []

    async def handle_DATA(self, server, session, envelope):
        self.messages.append((session.ssl is not None, envelope.rcpt_tos, envelope.content))
        return "250 taken"


@pytest.fixture
async def relay(certificate):
    box = Mailbox()

    def protocol():
        return SMTP(box, tls_context=certificate[1], require_starttls=True)

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0)
    box.port = server.sockets[0].getsockname()[1]
    yield box
    server.close()
    await server.wait_closed()


class World:
    """LoomDB with its loops, and the data service behind its client."""

    def __init__(self, shell, data):
        self.shell, self.data = shell, data
        self.deployed = []

    async def client_tell(self, request, *, command_id, **given):
        """Where a reactor's commands go: to data as it is; to deployment they are noted."""
        if isinstance(request, deployment_pb2.DeployModelRequest):
            self.deployed.append((request, command_id, given["causation_id"]))
            return None
        call = Call(
            caller=self.shell.authorizer.service_caller("loomdb"),
            command_id=command_id,
            issued_at_us=given["issued_at_us"] or now_us(),
            correlation_id=given["correlation_id"],
            causation_id=given["causation_id"],
            traceparent="",
            after=(),
            deadline_s=None,
        )
        return await self.data.tell(request, call)

    async def tell(self, request):
        return await tell(self.shell, request, ACME)

    async def append(self, kind, payload, **more):
        event = data_pb2.NewEvent(type=kind, payload_json=json.dumps(payload), **more)
        request = data_pb2.AppendEventRequest(organisation_id="acme", event=event)
        return (await tell(self.data, request, ACME)).events[0]

    async def alerts(self, **asked):
        async with self.shell.db() as db:
            request = pb.ListAlertsRequest(organisation_id="acme", **asked)
            return list((await query.list_alerts(request, ACME, db)).alerts)

    async def rule(self, name, types, where=(), targets=(), retry=0, cooldown=300, **condition):
        spec = pb.AlertSpec(
            name=name,
            condition=pb.AlertCondition(
                selection=pb.EventSelection(types=types, where=where),
                **(condition or {"count_min": 1}),
            ),
            severity=pb.ALERT_SEVERITY_CRITICAL,
            cooldown_seconds=cooldown,
            targets=targets,
            action=pb.ALERT_ACTION_RETRY if retry else 0,
            retries_max=retry,
        )
        return await self.tell(pb.CreateAlertRuleRequest(organisation_id="acme", spec=spec))

    async def target(self, name, plugin, address="", secret=""):
        return await self.tell(
            pb.CreateNotifyTargetRequest(
                organisation_id="acme", name=name, plugin=plugin, address=address, secret=secret
            )
        )

    async def events(self, prefix):
        """Events of a type, as the audit index has them."""
        async with self.shell.db() as db:
            found = await db.execute(
                "SELECT * FROM audit_events WHERE type LIKE %s ORDER BY at_us", (f"{prefix}%",)
            )
            return await found.fetchall()


@contextlib.asynccontextmanager
async def running(service, settings, loops):
    made = Shell(service, settings)
    made.authorizer = Everywhere()
    made.owner = f"test-{service.name}"
    await made.store.open()
    await made.store.prepare(service.schema)
    tasks = [asyncio.create_task(one) for one in (made.ownership.own(0), *loops(made))]
    try:
        serving = asyncio.create_task(made.ownership.serving())
        done, _ = await asyncio.wait(
            [serving, *tasks], timeout=30, return_when=asyncio.FIRST_COMPLETED
        )
        assert done == {serving}, [task.exception() for task in done]
        yield made
    finally:
        died = [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await made.client.close()
        await made.store.close()
    assert died == []


@pytest.fixture
async def world(fresh_log, fresh_database, settings, place, relay, certificate):
    environ = {
        "LOOMOS_ALERT_ALLOW": f"127.0.0.1:{place.port},localhost:{place.port}",
        "LOOMOS_ALERT_CA": str(certificate[0]),
        "LOOMOS_SMTP": f"smtp://127.0.0.1:{relay.port}",
        "LOOMOS_PAGERDUTY_URL": f"https://localhost:{place.port}/pagerduty",
    }
    own = settings("loomdb")
    own.environ.update(environ)

    def loops(shell):
        tail = tail_of(shell)
        return (tail.run(), watch_alerts(shell), notify(shell, tail, pause_s=0.02))

    async with (
        running(DATA, settings("data"), lambda _: ()) as data,
        running(SERVICE, own, loops) as shell,
    ):
        made = World(shell, data)
        shell.client.tell = made.client_tell
        yield made


async def test_a_production_failure_is_told_and_tried_again(world, place, relay, platform):
    base = f"https://127.0.0.1:{place.port}"
    await world.target("hook", "webhook", f"{base}/hook", KEY)
    await world.target("chat", "slack", f"https://localhost:{place.port}/slack")
    await world.target("pager", "pagerduty", "", ROUTING_KEY)
    await world.target("mail", "email", "ann@example.org")
    await world.rule(
        "production-failed", ["model.deployment.*"],
        ["payload.environment = production", "payload.status = failed"],
        ["hook", "chat", "pager", "mail"], retry=3,
    )  # fmt: skip
    staging = {"model_name": "m", "environment": "staging", "status": "failed"}
    await world.append("model.deployment.complete", staging)
    failed = staging | {"environment": "production", "job_id": "deploy-7"}
    kind = "model.deployment.complete"
    appended = await world.append(kind, failed, stream="model-m", correlation_id="story-1")

    (alert,) = await eventually(world.alerts)
    assert alert.raised.severity == pb.ALERT_SEVERITY_CRITICAL
    assert alert.raised.retry.failed_event_id == appended.event_id

    async def chain():
        async with world.shell.db() as db:
            request = pb.WalkCausesRequest(
                organisation_id="acme",
                event_id=alert.raised.cause.event_id,
                direction=pb.CAUSAL_DIRECTION_EFFECTS,
            )
            walked = await query.walk_causes(request, ACME, db)
        found = [(one.depth, one.event.type) for one in walked.entries]
        return found if len(found) == 7 else None

    found = await eventually(chain)
    assert found[:2] == [(0, kind), (1, "alert.raised")]
    assert sorted(found[2:]) == [(2, "job.retry.requested")] + [(2, "notification.delivered")] * 4
    ((retry, *_),) = [await world.events("job.retry")]
    assert retry["payload"]["payload"]["job_id"] == "deploy-7"
    assert retry["correlation_id"] == "story-1" and retry["causation_id"] == alert.event_id

    (headers, event) = place.at("/hook")[0]
    body = next(raw for path, _, raw in place.told if path == "/hook")
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = base64.b64encode(hmac.digest(KEY.encode(), signed, "sha256")).decode()
    # The server's headers are in lower case, base64 is not.
    assert headers["webhook-signature"] == f"v1,{wanted}".lower()
    assert (event["id"], event["type"]) == (alert.event_id, "alert.raised")
    assert "blocks" in place.at("/slack")[0][1]
    pager = place.at("/pagerduty")[0][1]
    assert (pager["routing_key"], pager["event_action"]) == (ROUTING_KEY, "trigger")
    assert pager["dedup_key"] == alert.raised.alert_id
    ((secure, to, content),) = relay.messages
    assert secure and to == ["ann@example.org"] and b"production-failed" in content

    alert_id = alert.raised.alert_id
    request = pb.ResolveAlertRequest(organisation_id="acme", alert_id=alert_id, reason="fixed")
    await world.tell(request)

    async def resolved():
        return [one for _, one in place.at("/pagerduty") if one["event_action"] == "resolve"]

    assert (await eventually(resolved))[0]["dedup_key"] == alert_id

    async with world.shell.db() as db:
        rows = await (await db.execute("SELECT payload::text AS text FROM audit_events")).fetchall()
    for secret in (KEY, ROUTING_KEY, "ann@example.org", "/slack"):
        assert not any(secret in row["text"] for row in rows), secret
    await copied(platform, alert.event_id)


async def copied(platform, event_id):
    """`loomos.alerts` has the event, once read from its beginning."""
    consumer = AIOKafkaConsumer(**connection(platform.administrator), group_id=None)
    await consumer.start()
    try:
        partition = TopicPartition("loomos.alerts", 0)
        consumer.assign([partition])
        await consumer.seek_to_beginning(partition)
        records = (await consumer.getmany(timeout_ms=5000))[partition]
        ids = [dict(record.headers)["ce_id"].decode() for record in records]
        assert event_id in ids
    finally:
        await consumer.stop()


async def test_a_failed_deployment_of_ours_is_deployed_again(world, platform):
    await world.rule(
        "ours", ["deployment.failed"], ["payload.environment = ENVIRONMENT_PRODUCTION"], retry=1,
        cooldown=1,
    )  # fmt: skip
    model = f"model-acme.vision-{'a' * 20}"
    deployment = f"deployment-acme.vision-{'b' * 20}"
    event = deployment_pb2.DeploymentFailed(
        deployment_id=deployment, revision=1, reason="no memory", model_id=model, version=3,
        environment=deployment_pb2.ENVIRONMENT_PRODUCTION,
    )  # fmt: skip
    origin = Origin(
        "/loomos/deployment", "acme.vision", "service:deployment", uuid.uuid4().hex, bytes(32),
        now_us(), now_us(), "story-d", "",
    )  # fmt: skip
    await write(platform.administrator, "loomos.deployment", [envelope.draft([event], [1], origin)])

    async def deployed():
        return world.deployed

    ((request, _, causation),) = await eventually(deployed)
    assert (request.model_id, request.version) == (model, 3)
    assert request.environment == deployment_pb2.ENVIRONMENT_PRODUCTION
    (alert,) = await eventually(world.alerts)
    assert causation == alert.event_id and alert.raised.project_id == "acme.vision"


async def test_an_unruly_place_harms_nobody(world, place, monkeypatch):
    monkeypatch.setattr(outbound, "SECONDS", 0.5)
    base = f"https://127.0.0.1:{place.port}"
    await world.target("hangs", "webhook", f"{base}/hang", KEY)
    await world.target("works", "webhook", f"{base}/ok", KEY)
    await world.rule("any", ["job.completed"], (), ["hangs", "works"])
    await world.append("job.completed", {"job_id": "j", "status": "failed"})

    async def ended():
        (alert, *_) = await world.alerts() or [pb.Alert()]
        found = {one.status: one for one in alert.notifications}
        return found if len(found) == 2 and "pending" not in found else None

    found = await eventually(ended)
    assert found["delivered"].attempts == 1
    assert found["failed"].attempts == 6 and "no answer" in found["failed"].reason
    ids = {headers["webhook-id"] for headers, _ in place.at("/hang")}
    assert len(place.at("/hang")) == 6 and len(ids) == 1


async def test_a_redirect_is_not_followed(world, place):
    place.answers.append(b"HTTP/1.1 307 T\r\nlocation: https://127.0.0.1:1/\r\n")
    await world.target("moved", "webhook", f"https://127.0.0.1:{place.port}/moved", KEY)
    await world.rule("any", ["job.completed"], (), ["moved"])
    await world.append("job.completed", {"job_id": "j", "status": "failed"})

    async def failed():
        found = await world.events("notification.failed")
        return [one["payload"] for one in found]

    (payload,) = await eventually(failed)
    assert "redirects are not followed" in payload["reason"] and payload["attempts"] == 1


async def test_a_storm_raises_once_a_group_and_a_second_reader_nothing_more(world):
    await world.rule(
        "storm", ["job.completed"], (), count_min=3, window_seconds=60, group_by="payload.status"
    )
    for number in range(12):
        status = "failed" if number % 2 else "lost"
        await world.append("job.completed", {"job_id": f"j-{number}", "status": status})

    async def both():
        found = await world.alerts()
        return found if len(found) == 2 else None

    found = await eventually(both)
    assert sorted(one.raised.group for one in found) == ["failed", "lost"]
    assert all(len(one.raised.evidence_ids) == 3 for one in found)
    again = asyncio.create_task(watch_alerts(world.shell))

    async def counted():
        return [one.suppressed for one in await world.alerts()] == [3, 3]

    await eventually(counted)
    await world.append("job.completed", {"job_id": "j-last", "status": "failed"})
    await asyncio.sleep(1.5)
    assert len(await world.events("alert.raised")) == 2
    again.cancel()
    await asyncio.gather(again, return_exceptions=True)


async def test_silence_is_raised_and_ends_with_the_next_event(world):
    await world.rule("silence", ["job.completed"], (), absent_seconds=2, cooldown=1)
    (alert,) = await eventually(world.alerts)
    assert alert.raised.absence and alert.raised.summary == "silence: nothing for 2 s"
    await world.append("job.completed", {"job_id": "j", "status": "ok"})

    async def over():
        return await world.alerts(status=pb.ALERT_STATUS_RESOLVED)

    (ended,) = await eventually(over)
    assert ended.reason == "events came again" and ended.resolved_by == "service:loomdb"


async def test_bad_targets_and_others_rules_are_refused(world):
    for plugin, address in (
        ("webhook", "https://127.0.0.1:1/"),
        ("webhook", "http://example.org/"),
        ("slack", "https://169.254.169.254/"),
        ("email", "a@b.org\nBcc: c@d.org"),
        ("carrier-pigeon", "x"),
    ):
        with pytest.raises(Failure) as refused:
            await world.target("bad", plugin, address, KEY if plugin == "webhook" else "")
        assert refused.value.code == "INVALID_ARGUMENT"
    receipt = await world.rule("mine", ["job.completed"])
    await world.append("job.completed", {"job_id": "j", "status": "failed"})
    (alert,) = await eventually(world.alerts)
    other = caller("other")
    async with world.shell.db() as db:
        asked = pb.ListAlertsRequest(organisation_id="acme")
        assert not (await query.list_alerts(asked, other, db)).alerts
        with pytest.raises(Exception, match="no alert rule"):
            request = pb.GetAlertRuleRequest(organisation_id="acme", rule_id=receipt.id)
            await query.get_alert_rule(request, other, db)
    with pytest.raises(Failure, match="no alert"):
        foreign = pb.ResolveAlertRequest(organisation_id="other", alert_id=alert.raised.alert_id)
        await world.tell(foreign)
