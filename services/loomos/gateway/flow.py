"""The answers of a streaming RPC over HTTP: lines of JSON, server-sent events, or plain text.

1. A refusal before the first answer is an ordinary problem document; later ones end the stream.
2. What is quiet is kept open by comments (events only), so that a dead peer is noticed.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from loom.kit.descriptors import described
from loom.kit.errors import Failure
from loomos.gateway.transcode import to_json

__all__ = ["first_of", "form_of", "lines", "resumed"]

LINES = "application/x-ndjson"
EVENTS = "text/event-stream"
TEXT = "text/plain"
FIRST_SECONDS = 1.0
QUIET_SECONDS = 15.0

First = asyncio.Task[Message]


def form_of(accept: str, answer: Descriptor) -> str:
    """The media type to answer in; raises Failure where none of those asked for is offered."""
    wanted = [part.partition(";")[0].strip().lower() for part in accept.split(",") if part.strip()]
    for kind in wanted:
        if kind in (LINES, EVENTS):
            return kind
        if kind == TEXT and content_field(answer):
            return TEXT
        if kind in ("*/*", "application/*", "application/json"):
            return LINES
    if wanted:
        raise Failure("INVALID_ARGUMENT", f"want {LINES} or {EVENTS}", http_status=406)
    return LINES


def content_field(answer: Descriptor) -> str:
    """The field whose content is the text itself, or ""."""
    names = (name for name in ("text", "data") if name in answer.fields_by_name)
    return next(names, "")


async def first_of(answers: AsyncIterator[Message]) -> First:
    """The first answer, awaited a moment: a refusal comes at once, a quiet stream does not."""
    task: First = asyncio.ensure_future(one_of(answers))
    done, _ = await asyncio.wait((task,), timeout=FIRST_SECONDS)
    if done and task.exception() is not None and not isinstance(task.exception(), Ended):
        task.result()
    return task


class Ended(Exception):
    """The stream has no further answer."""


async def one_of(answers: AsyncIterator[Message]) -> Message:
    """The next answer; raises Ended after the last."""
    try:
        return await anext(answers)
    except StopAsyncIteration as error:
        raise Ended from error


async def lines(
    form: str,
    first: First,
    answers: AsyncIterator[Message],
    failed: Callable[[Exception], dict[str, Any]],
) -> AsyncIterator[bytes]:
    """The bytes of the answer; what goes wrong midway is its last line."""
    task = first
    try:
        while True:
            done, _ = await asyncio.wait((task,), timeout=QUIET_SECONDS)
            if not done:
                if form == EVENTS:
                    yield b": still here\n\n"
                continue
            yield encoded(form, task.result())
            task = asyncio.ensure_future(one_of(answers))
    except Ended:
        return
    except Exception as error:  # noqa: BLE001 - the answer has begun: its last line must tell
        yield ending(form, failed(error))
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await task
        closing = getattr(answers, "aclose", None)
        if closing is not None:
            await closing()


def encoded(form: str, message: Message) -> bytes:
    """One answer in the form asked for."""
    if form == TEXT:
        content = getattr(message, content_field(described(message)))
        if isinstance(content, bytes):
            return content
        return (content if content.endswith("\n") else content + "\n").encode()
    text = json.dumps(to_json(message), separators=(",", ":"))
    if form != EVENTS:
        return f"{text}\n".encode()
    # A browser sends the last id again when it comes back: the stream goes on behind it.
    cursor = getattr(message, "cursor", "")
    return (f"id: {cursor}\n" if cursor else "").encode() + f"data: {text}\n\n".encode()


def resumed(request: Message, last_id: str) -> None:
    """Have a stream go on behind the answer whose id a client saw last, wherever it began."""
    fields = described(request).fields_by_name
    if last_id and "cursor" in fields:
        for name in ("start", "from_us", "from_event_id"):
            if name in fields:
                request.ClearField(name)
        setattr(request, "cursor", last_id)  # noqa: B010 - generated attribute


def ending(form: str, told: dict[str, Any]) -> bytes:
    """The failure that ends a stream."""
    text = json.dumps(told, separators=(",", ":"))
    if form == EVENTS:
        return f"event: error\ndata: {text}\n\n".encode()
    if form == TEXT:
        return f"\nended: {told['detail']}\n".encode()
    return f'{{"error":{text}}}\n'.encode()
