"""HTTPS to places that tenants name: the guard against being sent into our own network (SSRF).

1. A name is resolved once, every address it has is checked, and the connection goes to the checked
   address; the certificate is checked against the name. A second, different answer of the DNS
   changes nothing.
2. Only addresses that the whole internet can reach; what the operator lists as HOST:PORT in
   LOOMOS_ALERT_ALLOW is let through as it stands. Redirects and proxies are not followed.
3. Time, answers and addresses are bounded.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

import httpcore

from loomos.loomdb.plugins import Refused, Settings, Undelivered

__all__ = ["checked_url", "post", "reachable"]

PORTS = (443, 8443)
SECONDS = 10.0
ANSWER_BYTES_MAX = 4096
URL_CHARACTERS_MAX = 2048
LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?"
NAME = re.compile(rf"({LABEL}[.])*[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?")
"""A host name, whose last label begins with a letter: `127.1`, `0x7f.1`, `2130706433` are none."""
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
CARRIERS = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32"))
)
"""Ranges whose addresses stand for IPv4 addresses."""


def checked_url(url: str, settings: Settings) -> tuple[str, int]:
    """Host and port of a URL that may be called; raises Refused, which never shows the URL."""
    if len(url) > URL_CHARACTERS_MAX or not url.isascii() or not url.isprintable():
        raise Refused(f"want printable ASCII, {URL_CHARACTERS_MAX} characters at most")
    if "\\" in url or " " in url:
        raise Refused("a URL has neither spaces nor backslashes")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", 443 if parts.port is None else parts.port
    except ValueError as error:
        raise Refused("it is no URL") from error
    if parts.scheme != "https":
        raise Refused(f"the scheme is {parts.scheme[:16]!r}: want https")
    if "@" in parts.netloc:
        raise Refused("it names a user: a secret belongs into `secret`, not into the URL")
    if parts.fragment:
        raise Refused("it has a fragment, which no server sees")
    if f"{host}:{port}" in allowed(settings):
        return host, port
    if port not in PORTS:
        raise Refused(f"the port is {port}: want {' or '.join(map(str, PORTS))}")
    try:
        literal = ipaddress.ip_address(host)
    except ValueError:
        if not NAME.fullmatch(host) or len(host) > 253:
            raise Refused("the host is neither a name nor an address in its usual form") from None
    else:
        if not reachable(literal):
            raise Refused("the address is not on the internet: the operator may allow it")
    return host, port


def allowed(settings: Settings) -> frozenset[str]:
    """The places inside that the operator lets be told."""
    return frozenset(
        filter(None, map(str.strip, settings.get("LOOMOS_ALERT_ALLOW", "").split(",")))
    )


def reachable(address: Address) -> bool:
    """Whether an address is one of the internet, and no disguise of another."""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id or any(address in one for one in CARRIERS):
            return False
        if address.ipv4_mapped is not None:
            return reachable(address.ipv4_mapped)
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and not address.is_link_local
        and not address.is_loopback
    )


async def resolved(host: str, port: int, free: bool) -> str:
    """The address to connect to; raises Undelivered where any that the name has is not allowed."""
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP
        )
    except OSError as error:
        raise Undelivered(f"the name does not resolve: {error.strerror or error}", True) from error
    addresses = [str(one[4][0]) for one in found]
    if not addresses:
        raise Undelivered("the name has no address", True)
    if not free:
        for text in addresses:
            if not reachable(ipaddress.ip_address(text)):
                raise Undelivered("the name leads to an address that is not on the internet", False)
    return addresses[0]


class Guarded(httpcore.AsyncNetworkBackend):
    """Connects to checked addresses only."""

    def __init__(self, free: bool) -> None:
        self._free = free
        # Typed loosely: its stub is a stand-in for where anyio is missing.
        self._inner: Any = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's own
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the one address that was checked; TLS still names the host."""
        address = await resolved(host, port, self._free)
        return await self._inner.connect_tcp(address, port, timeout, local_address, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,  # noqa: ASYNC109 - the interface's own
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Never: a URL names no socket of this machine."""
        raise Undelivered("no sockets of this machine", False)

    async def sleep(self, seconds: float) -> None:
        """As the interface wants it."""
        await asyncio.sleep(seconds)


def trust(settings: Settings) -> ssl.SSLContext:
    """Whom we believe: the system's authorities, or those of LOOMOS_ALERT_CA as well."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if extra := settings.get("LOOMOS_ALERT_CA"):
        context.load_verify_locations(cafile=extra)
    return context


async def post(url: str, headers: Mapping[str, str], body: bytes, settings: Settings) -> None:
    """Send JSON to a URL; raises Undelivered unless it is taken (2xx)."""
    try:
        host, port = checked_url(url, settings)
    except Refused as error:
        raise Undelivered(str(error), False) from error
    free = f"{host}:{port}" in allowed(settings)
    try:
        async with (
            asyncio.timeout(SECONDS),
            httpcore.AsyncConnectionPool(
                ssl_context=await asyncio.to_thread(trust, settings),
                network_backend=Guarded(free),
                max_connections=1,
                http1=True,
            ) as pool,
        ):
            sent = {"content-type": "application/json", "user-agent": "loomos", **headers}
            async with pool.stream("POST", url, headers=list(sent.items()), content=body) as answer:
                await drained(answer)
                status = answer.status
    except TimeoutError as error:
        raise Undelivered(f"no answer within {SECONDS:.0f} s", True) from error
    except (httpcore.NetworkError, httpcore.ProtocolError, OSError) as error:
        raise Undelivered(f"the connection failed: {type(error).__name__}", True) from error
    except httpcore.TimeoutException as error:
        raise Undelivered("the connection timed out", True) from error
    if 300 <= status < 400:
        raise Undelivered(f"it answered {status}: redirects are not followed", False)
    if not 200 <= status < 300:
        raise Undelivered(f"it answered {status}", status in (408, 425, 429) or status >= 500)


async def drained(answer: httpcore.Response) -> None:
    """Read what a polite server says, and no more."""
    read = 0
    async for chunk in answer.aiter_stream():
        read += len(chunk)
        if read > ANSWER_BYTES_MAX:
            return
