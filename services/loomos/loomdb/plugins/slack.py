"""Tells a Slack channel by its incoming webhook, or what has that shape; the URL is the secret."""

import json

from loomos.loomdb.plugins import Notice, Settings
from loomos.loomdb.plugins.outbound import checked_url, post

__all__ = ["check", "message_of", "tell"]

SIGNS = {"info": ":information_source:", "warning": ":warning:", "critical": ":rotating_light:"}
TEXT_MAX = 2900


def check(address: str, secret: str, settings: Settings) -> str:
    """The host; raises Refused."""
    return checked_url(address, settings)[0]


async def tell(notice: Notice, address: str, secret: str, settings: Settings) -> None:
    """Post a message."""
    await post(address, {}, json.dumps(message_of(notice)).encode(), settings)


def message_of(notice: Notice) -> dict[str, object]:
    """The message: a line, and a block with what one must know."""
    sign = SIGNS.get(notice.severity, "") if notice.kind == "raised" else ":white_check_mark:"
    line = f"{sign} *{notice.severity}* {notice.kind}: {plain(notice.summary)}"
    about = f"`{notice.alert_id}` in `{notice.organisation}` at {notice.time}"
    if notice.by:
        about += f" by `{plain(notice.by)}`"
    return {
        "text": line,
        "blocks": [
            {"type": "section", "text": {"type": "mrkdwn", "text": line}},
            {"type": "context", "elements": [{"type": "mrkdwn", "text": about}]},
        ],
    }


def plain(text: str) -> str:
    """Strangers' words without what would be a link, a mention or markup."""
    bare = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return "".join(c for c in bare if c not in "*`~").replace("\n", " ")[:TEXT_MAX]
