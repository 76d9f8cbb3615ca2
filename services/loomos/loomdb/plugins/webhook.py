"""Tells a URL by HTTPS: the alert's event as CloudEvents JSON, signed as Standard Webhooks says.

The headers are `webhook-id` (the event's id, the same each time), `webhook-timestamp` (seconds
since 1970) and `webhook-signature`: `v1,` and the base64 of HMAC-SHA256 over `id.timestamp.body`,
keyed by the secret; one that begins with `whsec_` is base64 of the key behind it.
"""

import base64
import binascii
import hmac
import json
import time

from loomos.loomdb.plugins import Notice, Refused, Settings
from loomos.loomdb.plugins.outbound import checked_url, post

__all__ = ["body_of", "check", "signature", "tell"]

SECRET_BYTES_MIN = 16


def check(address: str, secret: str, settings: Settings) -> str:
    """The host; raises Refused."""
    host, _ = checked_url(address, settings)
    if len(key_of(secret)) < SECRET_BYTES_MIN:
        raise Refused(f"the secret has less than {SECRET_BYTES_MIN} bytes: it keys the signatures")
    return host


async def tell(notice: Notice, address: str, secret: str, settings: Settings) -> None:
    """Post the signed event."""
    body, timestamp = body_of(notice), str(int(time.time()))
    headers = {
        "content-type": "application/cloudevents+json",
        "webhook-id": notice.id,
        "webhook-timestamp": timestamp,
        "webhook-signature": signature(secret, notice.id, timestamp, body),
    }
    await post(address, headers, body, settings)


def signature(secret: str, message_id: str, timestamp: str, body: bytes) -> str:
    """The value of the header `webhook-signature`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key_of(secret), signed, "sha256")).decode()


def key_of(secret: str) -> bytes:
    """The key of a secret; raises Refused."""
    if not secret.startswith("whsec_"):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error as error:
        raise Refused("the secret begins with whsec_ and is no base64 behind it") from error


def body_of(notice: Notice) -> bytes:
    """The event as CloudEvents 1.0 JSON."""
    event = {
        "specversion": "1.0",
        "id": notice.id,
        "source": "/loomos/loomdb",
        "type": f"alert.{notice.kind}",
        "subject": notice.alert_id,
        "time": notice.time,
        "datacontenttype": "application/json",
        "data": notice.data,
    }
    return json.dumps(event, sort_keys=True, ensure_ascii=False).encode()
