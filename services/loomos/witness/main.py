"""The witness's door: HTTPS with a bearer token, two paths and no more.

1. `POST /add-checkpoint` and `GET /<SHA-256 of the origin>/checkpoint`; anything else is 404.
2. Without the token nothing is read or answered; the token is kept as its SHA-256 only.
3. A body is at most 192 KiB and comes within ten seconds.
"""

import asyncio
import hmac
import ssl
import time
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import uvicorn

from loomos.witness.book import Book
from loomos.witness.checking import Answer, add_checkpoint, latest

__all__ = ["Door", "serve"]

BODY_BYTES_MAX = 192 * 1024
BODY_SECONDS_MAX = 10.0
HEAD_BYTES_MAX = 16 * 1024
CONNECTIONS_MAX = 200

Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class Door:
    """The ASGI application."""

    def __init__(self, book: Book, now_s: Callable[[], float] = time.time) -> None:
        self.book = book
        self.now_s = now_s

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        answer = await self.answered(scope, receive)
        body = answer.body.encode()
        headers = [
            (b"content-type", answer.media_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
            (b"x-content-type-options", b"nosniff"),
        ]
        if answer.status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def answered(self, scope: dict[str, Any], receive: Receive) -> Answer:
        """What is answered to a request."""
        if not self.known(scope["headers"]):
            return Answer(401, "send Authorization: Bearer … with the witness's token\n")
        match scope["method"], scope["path"].strip("/").split("/"):
            case "POST", ["add-checkpoint"]:
                body = await body_of(receive)
                if body is None:
                    return Answer(413, f"a body has at most {BODY_BYTES_MAX} bytes\n")
                # Waits for the disk.
                now_s = int(self.now_s())
                return await asyncio.to_thread(add_checkpoint, body, self.book, now_s)
            case "GET", [origin_digest, "checkpoint"]:
                return await asyncio.to_thread(latest, origin_digest, self.book)
        return Answer(404, "there is POST /add-checkpoint and GET /<hash>/checkpoint\n")

    def known(self, headers: list[tuple[bytes, bytes]]) -> bool:
        """Whether the caller shows the token."""
        given = [value for name, value in headers if name == b"authorization"]
        if len(given) != 1 or not given[0].startswith(b"Bearer "):
            return False
        digest = sha256(given[0].removeprefix(b"Bearer ")).digest()
        return hmac.compare_digest(digest, self.book.token_digest)


async def body_of(receive: Receive) -> bytes | None:
    """A request's body, or None where it is too large or too slow."""
    parts, size = [], 0
    try:
        async with asyncio.timeout(BODY_SECONDS_MAX):
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    return None
                parts.append(event.get("body", b""))
                size += len(parts[-1])
                if size > BODY_BYTES_MAX:
                    return None
                if not event.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        return None


def serve(book: Book, host: str, port: int, certificate: Path, key: Path) -> None:
    """Answer until SIGTERM or SIGINT."""
    config = uvicorn.Config(
        Door(book),
        host=host,
        port=port,
        http="h11",
        ws="none",
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        ssl_certfile=str(certificate),
        ssl_keyfile=str(key),
    )
    config.load()
    assert config.ssl is not None
    config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    with book.held():
        uvicorn.Server(config).run()
