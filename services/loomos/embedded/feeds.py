"""Topics, rights and certificates of feeds: made by who may, for whom LoomDB names.

1. LoomDB says in a file which organisations have a feed; whoever writes there gains nothing but a
   topic `loomos.feed.…` and one reader of it, for that is all that is made here.
2. A feed's reader is the name in a certificate of its own; a feed that is switched off loses the
   right at once, whatever certificates are still about.
"""

import datetime
import json
import re
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509

from loom.kit.authority import Authority, write_secret
from loom.log import access, topics
from loomos.embedded.home import Home

__all__ = ["Feeds", "feeds_wanted"]

LIFE = datetime.timedelta(days=90)
ORGANISATION = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")
WANTED_BYTES_MAX = 1_048_576


def feeds_wanted(home: Home) -> list[str]:
    """The organisations that LoomDB names, sorted; none while it named none."""
    path = home.path / "feeds" / "wanted.json"
    try:
        named = json.loads(path.read_bytes()[:WANTED_BYTES_MAX])
    except (FileNotFoundError, ValueError):
        return []
    found = named if isinstance(named, list) else []
    return sorted({one for one in found if isinstance(one, str) and ORGANISATION.fullmatch(one)})


class Feeds:
    """Keeps Kafka as the file says; `readers` are the users whose rules stay as they are."""

    def __init__(self, home: Home, authority: Authority, readers: Sequence[str]) -> None:
        self.home = home
        self.authority = authority
        self.readers = readers
        self.kept: list[str] | None = None

    async def keep(self, bus: topics.Bus, bootstrap: str) -> None:
        """Bring topics, rules and certificates to what is wanted now."""
        wanted = feeds_wanted(self.home)
        if wanted != self.kept:
            await topics.ensure(bus, wanted)
            await access.apply(bus, {}, self.readers, wanted)
        for organisation in wanted:
            folder = self.home.path / "feeds" / organisation
            if due(folder):
                self.authority.issue(folder, "feed", organisation, LIFE)
                told = {
                    "bootstrap": bootstrap,
                    "topic": topics.feed_topic(organisation).name,
                    "group_prefix": f"feed.{organisation}.",
                }
                write_secret(folder / "feed.json", json.dumps(told) + "\n")
        self.kept = wanted


def due(folder: Path) -> bool:
    """Whether a feed's certificate is missing or past half its life."""
    try:
        leaf = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
    except (FileNotFoundError, ValueError):
        return True
    return leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC) < LIFE / 2
