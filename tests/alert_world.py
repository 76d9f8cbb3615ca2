"""LoomDB with its alerts on the real stores, and what it tells: HTTPS and SMTP servers."""

import asyncio
import contextlib
import datetime
import ipaddress
import json
import ssl

import pytest
from aiosmtpd.smtp import SMTP
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.callers import Judge, call, caller, tell
from tests.shells import serving

from loom.kit.service import Shell
from loom.v1 import data_pb2, deployment_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.data.main import SERVICE as DATA
from loomos.loomdb import query
from loomos.loomdb.main import SERVICE
from loomos.loomdb.notifying import notify
from loomos.loomdb.stream import tail_of, watch_alerts

__all__ = ["ACME", "World", "certificate", "place", "relay", "world"]

ACME = caller("acme")


class Everywhere(Judge):
    """The services' own view: it is never behind and never moves."""

    class view:
        version = 1


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
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
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
        known = {name: given[name] for name in ("issued_at_us", "correlation_id", "causation_id")}
        who = self.shell.authorizer.service_caller("loomdb")
        return await self.data.tell(request, call(who, command_id=command_id, **known))

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


def shell_of(service, settings):
    made = Shell(service, settings)
    made.authorizer = Everywhere()
    made.owner = f"test-{service.name}"
    return made


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

    shell, data = shell_of(SERVICE, own), shell_of(DATA, settings("data"))

    def loops():
        tail = tail_of(shell)
        return (tail.run(), watch_alerts(shell), notify(shell, tail, pause_s=0.02))

    async with serving(data), serving(shell, loops):
        made = World(shell, data)
        shell.client.tell = made.client_tell
        yield made
