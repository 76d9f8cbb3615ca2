"""The event types that every organisation has from the start: the seeds' catalogue, as data files.

1. One file a version, `<type>@<version>.json`, JSON Schema 2020-12. They are constants of the code:
   an event names the digest of the one that it passed, so a changed file is seen.
2. A file is never changed after a release; a new version is a new file.
"""

import hashlib
import json
from functools import cache
from importlib import resources

from loom.payload import canonical
from loomos.data.state import Schema, order

__all__ = ["builtin", "types"]


@cache
def types() -> dict[str, dict[str, Schema]]:
    """Type → version → schema, both sorted."""
    found: dict[str, dict[str, Schema]] = {}
    for file in resources.files("loomos.data.catalogue").iterdir():
        name, _, version = file.name.removesuffix(".json").partition("@")
        if file.name.endswith(".json"):
            text = canonical(json.loads(file.read_text()), file.name)
            schema = Schema(text.decode(), hashlib.sha256(text).digest())
            found.setdefault(name, {})[version] = schema
    return {
        name: dict(sorted(found[name].items(), key=lambda one: order(one[0])))
        for name in sorted(found)
    }


def builtin(event_type: str) -> dict[str, Schema]:
    """The versions of one type, oldest first; none where the catalogue has no such type."""
    return types().get(event_type, {})
