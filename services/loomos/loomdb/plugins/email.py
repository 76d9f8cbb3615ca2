"""Tells one e-mail address through the operator's relay: LOOMOS_SMTP, `smtp://[user@]host[:port]`
with STARTTLS or `smtps://…` with TLS from the start; never in clear.

1. No tenant names a server: an address is all that he gives.
2. A header is built by the standard library, which refuses line breaks; our words have none anyway.
3. Message-ID is made from the event's id, so a message that came twice can be known.
"""

import asyncio
import json
import re
import smtplib
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote, urlsplit

from loomos.loomdb.plugins import Notice, Refused, Settings, Undelivered
from loomos.loomdb.plugins.outbound import NAME, trust

__all__ = ["check", "message_of", "tell"]

SECONDS = 10.0
SUBJECT_MAX = 200
LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_{|}~-]+([.][A-Za-z0-9!#$%&'*+/=?^_{|}~-]+)*")


def check(address: str, secret: str, settings: Settings) -> str:
    """The domain; raises Refused."""
    if secret:
        raise Refused("e-mail goes through the operator's relay: leave the secret out")
    local, _, domain = address.rpartition("@")
    known = NAME.fullmatch(domain.lower()) and LOCAL.fullmatch(local)
    if not known or len(local) > 64 or len(domain) > 253:
        raise Refused("the address is none: want NAME@DOMAIN, without a display name")
    if not settings.get("LOOMOS_SMTP"):
        raise Refused("the operator has set no relay: LOOMOS_SMTP")
    return f"…@{domain}"


async def tell(notice: Notice, address: str, secret: str, settings: Settings) -> None:
    """Hand the message to the relay."""
    relay = settings.get("LOOMOS_SMTP", "")
    if not relay:
        raise Undelivered("LOOMOS_SMTP is not set", True)
    sender = settings.get("LOOMOS_SMTP_FROM", "loomos@localhost")
    message = message_of(notice, sender, address)
    try:
        await asyncio.to_thread(hand_over, relay, message, settings)
    except smtplib.SMTPRecipientsRefused as error:
        ((code, _),) = error.recipients.values()
        raise Undelivered(f"the relay refused the address: {code}", code < 500) from error
    except smtplib.SMTPResponseException as error:
        again = error.smtp_code < 500
        raise Undelivered(f"the relay answered {error.smtp_code}", again) from error
    except (smtplib.SMTPException, OSError) as error:
        raise Undelivered(f"the relay: {type(error).__name__}", True) from error


def hand_over(relay: str, message: EmailMessage, settings: Settings) -> None:
    """The conversation with the relay; blocks."""
    parts = urlsplit(relay)
    if parts.scheme not in ("smtp", "smtps") or not parts.hostname:
        raise smtplib.SMTPException("LOOMOS_SMTP is no smtp:// or smtps:// address")
    context = trust(settings)
    if parts.scheme == "smtps":
        server: smtplib.SMTP = smtplib.SMTP_SSL(
            parts.hostname, parts.port or 465, timeout=SECONDS, context=context
        )
    else:
        server = smtplib.SMTP(parts.hostname, parts.port or 587, timeout=SECONDS)
    with server:
        if parts.scheme == "smtp":
            server.starttls(context=context)
        if parts.username:
            server.login(unquote(parts.username), password(settings))
        server.send_message(message)


def password(settings: Settings) -> str:
    """The relay's password, from the file that LOOMOS_SMTP_PASSWORD_FILE names."""
    return Path(settings.get("LOOMOS_SMTP_PASSWORD_FILE", "")).read_text().strip()


def message_of(notice: Notice, sender: str, address: str) -> EmailMessage:
    """The message; strangers' words are in the body and, in one line, in the subject."""
    summary = "".join(c if c.isprintable() else " " for c in notice.summary)[:SUBJECT_MAX]
    message = EmailMessage()
    message["Subject"] = f"[{notice.severity}] {notice.kind}: {summary}"
    message["From"] = sender
    message["To"] = address
    message["Message-ID"] = f"<{notice.id}.{notice.kind}@loomos>"
    message["Auto-Submitted"] = "auto-generated"
    by = f"By: {notice.by}\n" if notice.by else ""
    message.set_content(
        f"{notice.summary}\n\nAlert: {notice.alert_id}\nOrganisation: {notice.organisation}\n"
        f"Time: {notice.time}\n{by}\n{json.dumps(dict(notice.data), indent=2, sort_keys=True)}\n"
    )
    return message
