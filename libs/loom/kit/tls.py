"""The process's certificate: read from the credentials folder, and read again when renewed.

1. Every server asks for a client certificate of our own authority; only the gateway's two doors,
   which people call, the runtime's inference doors, and the metrics door let a caller come with a
   token instead.
2. A renewal is seen without restart; a half-written one is ignored until key and leaf match.
3. Who a peer is stands in the one SPIFFE URI of its certificate and nowhere else.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

import grpc

from loom.kit.config import InvalidSetting, Settings

__all__ = [
    "Identity",
    "channel_credentials",
    "identity",
    "peer_of",
    "renew",
    "server_context",
    "server_credentials",
    "stamp",
]

SPIFFE = "spiffe://loomos/"
RENEWAL_SECONDS = 30.0


class Identity(NamedTuple):
    """A leaf certificate with its key, and the authorities that peers must chain to; PEM."""

    key: bytes
    certificate: bytes
    authorities: bytes


def identity(settings: Settings) -> Identity:
    """What the credentials folder holds now; raises InvalidSetting where key and leaf differ."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_cert_chain(
            settings.tls_certificate, settings.tls_key
        )
        return Identity(
            settings.tls_key.read_bytes(),
            settings.tls_certificate.read_bytes(),
            settings.ca_certificate.read_bytes(),
        )
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(
            f"LOOMOS_CREDENTIALS: {settings.credentials} holds no usable tls.crt, tls.key "
            f"and ca.crt: {error}"
        ) from error


def stamp(settings: Settings) -> tuple[int, ...]:
    """Changes when one of the files was renewed."""
    found: list[int] = []
    for path in (settings.tls_certificate, settings.tls_key, settings.ca_certificate):
        try:
            status = path.stat()
        except OSError:
            found += (0, 0)
        else:
            found += (status.st_mtime_ns, status.st_ino)
    return tuple(found)


def server_credentials(
    settings: Settings, *, client_certificates: bool = True
) -> grpc.ServerCredentials:
    """gRPC server credentials that follow renewals; without client certificates, tokens decide."""
    seen = stamp(settings)

    def configuration() -> grpc.ServerCertificateConfiguration:
        now = identity(settings)
        return grpc.ssl_server_certificate_configuration(
            [(now.key, now.certificate)], root_certificates=now.authorities
        )

    def renewed() -> grpc.ServerCertificateConfiguration | None:
        nonlocal seen
        fresh = stamp(settings)
        if fresh == seen:
            return None
        try:
            made = configuration()
        except InvalidSetting:
            return None
        seen = fresh
        return made

    # The stubs do not know that None means "unchanged".
    fetcher: Any = renewed
    return grpc.dynamic_ssl_server_credentials(
        configuration(), fetcher, require_client_authentication=client_certificates
    )


def channel_credentials(settings: Settings) -> grpc.ChannelCredentials:
    """gRPC channel credentials with the leaf as it is now."""
    now = identity(settings)
    return grpc.ssl_channel_credentials(now.authorities, now.key, now.certificate)


def server_context(settings: Settings, *, client_certificates: bool) -> ssl.SSLContext:
    """TLS for a door of our own; a client certificate is checked where one is sent."""
    identity(settings)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    if client_certificates:
        context.load_verify_locations(settings.ca_certificate)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


async def renew(context: ssl.SSLContext, settings: Settings) -> None:
    """Let a context follow renewals, until cancelled."""
    seen = stamp(settings)
    while True:
        await asyncio.sleep(RENEWAL_SECONDS)
        fresh = stamp(settings)
        if fresh == seen:
            continue
        try:
            identity(settings)
        except InvalidSetting:
            continue
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
        seen = fresh


def peer_of(certificate: Mapping[str, Any] | None) -> str:
    """The SPIFFE id in a verified certificate as `ssl` shows it; "" where there is none."""
    names = (certificate or {}).get("subjectAltName", ())
    found = [value for kind, value in names if kind == "URI"]
    return found[0] if len(found) == 1 and found[0].startswith(SPIFFE) else ""
