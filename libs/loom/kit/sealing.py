"""The shell's way with personal content: sealed before `evolve`, opened for who may, erased with
its key (ADR 0016).

1. What a contract or a schema marks as personal is ciphertext before an event is encoded, evolved,
   projected, snapshotted or archived. Where no key can be had nothing is decided.
2. Digests and refusals that are stored say nothing of personal content: digests are keyed by the
   subject's key, and in the words of a refusal the values are left out.
3. A caller sees plain values where a policy lets him do `ReadPersonal`, and his own; else a mark.
4. Keys are made and unwrapped beside the event loop, before a command enters the queue.
"""

import asyncio
import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from loom import personal
from loom.kit.caller import Caller
from loom.kit.config import Settings
from loom.kit.errors import Failure
from loom.log import catalogue, providers
from loom.log.keyring import Keyring
from loom.log.keystore import Directory, Unusable
from loom.log.seal import Algorithm, Spot, Unreadable, seal, unseal

__all__ = ["ERASED", "HIDDEN", "Sealing"]

ERASED = "[erased]"
"""Stands where the key is gone, for everybody and for ever."""
HIDDEN = "[sealed]"
"""Stands where the caller may not read what is sealed."""
MASKED = "[personal]"
READ = "ReadPersonal"
ALGORITHMS = {"aes-256-gcm": Algorithm.AES_256_GCM, "chacha20": Algorithm.CHACHA20_POLY1305}


class Sealing:
    """What one process may do with personal content."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @property
    def folder(self) -> Path:
        """Where the keys lie: LOOMOS_KEYS, else `keys` in the home."""
        given = self.settings.environ.get("LOOMOS_KEYS", "")
        return Path(given) if given else self.settings.home / "keys"

    @cached_property
    def keyring(self) -> Keyring:
        """The keys, opened at the first use; raises Unusable."""
        environ = self.settings.environ
        name = environ.get("LOOMOS_SEAL", "aes-256-gcm")
        if name not in ALGORITHMS:
            raise Unusable(f"LOOMOS_SEAL is {name!r}: want one of {', '.join(sorted(ALGORITHMS))}")
        provider = providers.named(
            environ.get("LOOMOS_KEY_PROVIDER", "file"), environ, self.folder
        )
        return Keyring(Directory(self.folder / "data"), provider, ALGORITHMS[name])

    async def prepare(self, request: Message, organisation: str, digest: bytes) -> bytes:
        """Have the keys of a command's subjects at hand; its digest, keyed where it is personal."""
        if not personal.has_any(request.DESCRIPTOR):
            return digest
        return await asyncio.to_thread(self._prepared, request, organisation, digest)

    def _prepared(self, request: Message, organisation: str, digest: bytes) -> bytes:
        try:
            return self._digest(request, organisation, digest)
        except Unusable as error:
            raise keys_away(error) from error

    def _digest(self, request: Message, organisation: str, digest: bytes) -> bytes:
        bare = copy.deepcopy(request)
        keyed = [request.DESCRIPTOR.full_name.encode()]
        for place in personal.places(bare):
            subject = place.subject or personal.whole_organisation(organisation)
            content = content_of(getattr(place.message, place.field))
            self.keyring.newest(organisation, subject)
            # Also without a subject of its own the digest must not outlive an erasure.
            holder = place.subject or digests_of(organisation)
            keyed.append(self.keyring.digest(organisation, holder, "command", content))
            place.message.ClearField(place.field)
        if len(keyed) == 1:
            return digest
        keyed.append(bare.SerializeToString(deterministic=True))
        whole = b"".join(len(part).to_bytes(4, "big") + part for part in keyed)
        return hashlib.sha256(whole).digest()

    def digest(self, organisation: str, subject: str, content: bytes) -> bytes:
        """A digest of somebody's content by which it is known again while his key lives."""
        try:
            holder = subject or digests_of(organisation)
            return self.keyring.digest(organisation, holder, "content", content)
        except Unusable as error:
            raise keys_away(error) from error

    def index(self, organisation: str, field: str, value: str) -> str:
        """By what a sealed value is looked up: a digest under the organisation's own key."""
        try:
            holder = personal.whole_organisation(organisation)
            content = f"{field}\0{value}".encode()
            return self.keyring.digest(organisation, holder, "index", content).hex()
        except Unusable as error:
            raise keys_away(error) from error

    def seal(self, events: Sequence[Message], shard: str, token: str) -> None:
        """Seal what is personal in a command's events, in place; what is sealed stays as it is."""
        for index, event in enumerate(events, start=1):
            if not personal.has_any(event.DESCRIPTOR):
                continue
            try:
                for place in personal.places(event):
                    self._seal(place, personal.organisation_of(shard), f"{token}.{index}")
            except Unusable as error:
                raise keys_away(error) from error

    def _seal(self, place: personal.Place, organisation: str, event_id: str) -> None:
        event_id = place.id or event_id
        value = getattr(place.message, place.field)
        if place.pointers is not None:
            if place.pointers:
                sealed = self._sealed_json(place, organisation, event_id, value)
                setattr(place.message, place.field, like(value, sealed))
        elif not personal.key_of(text_of(value)):
            sealed = self._sealed(organisation, place.subject, event_id, place.path, value)
            setattr(place.message, place.field, like(value, sealed))

    def _sealed_json(
        self, place: personal.Place, organisation: str, event_id: str, value: Any
    ) -> str:
        assert place.pointers is not None
        document = json.loads(value)
        for pointer in place.pointers:
            if not pointer:
                if not personal.key_of(document):
                    content = compact(document)
                    document = self._sealed(organisation, place.subject, event_id, "#", content)
                break
            for holder, name, exact in personal.spots(document, pointer):
                if not personal.key_of(holder[name]):
                    content = compact(holder[name])
                    at = f"{place.path}#{exact}"
                    holder[name] = self._sealed(organisation, place.subject, event_id, at, content)
        return compact(document)

    def _sealed(
        self, organisation: str, subject: str, event_id: str, path: str, value: str | bytes
    ) -> str:
        subject = subject or personal.whole_organisation(organisation)
        content = value.encode() if isinstance(value, str) else value
        key = self.keyring.newest(organisation, subject)
        return seal(key, Spot(organisation, subject, event_id, path), content)

    def masked(self, text: str, request: Message) -> str:
        """The words of a refusal without the personal values of the command that it refuses."""
        if not personal.has_any(request.DESCRIPTOR):
            return text
        for value in sorted(values_of(request), key=len, reverse=True):
            text = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", MASKED, text)
        return text

    def may_read(self, caller: Caller, shard: str) -> bool:
        """Whether the caller may read what is sealed in a shard."""
        scope = caller.scope(READ)
        return (
            scope.all
            or personal.organisation_of(shard) in scope.organisations
            or shard in scope.projects
        )

    async def open(self, event: Message, shard: str, event_id: str, caller: Caller) -> Message:
        """The event as the caller may read it."""
        if not personal.has_any(event.DESCRIPTOR):
            return event
        allowed = self.may_read(caller, shard)
        own = caller.principal.removeprefix("user:")
        return await asyncio.to_thread(self.opened, event, shard, event_id, allowed, own)

    async def open_row(
        self, row: dict[str, Any], payload: dict[str, Any], caller: Caller
    ) -> dict[str, Any]:
        """The payload of a row of the index, as `project` wrote it, as the caller may read it."""
        kind = catalogue.events().get(str(row["type"]))
        if kind is None or not personal.has_any(kind.DESCRIPTOR):
            return payload
        event = json_format.ParseDict(payload, kind(), ignore_unknown_fields=True)
        shown = await self.open(event, str(row["shard"]), str(row["event_id"]), caller)
        return json_format.MessageToDict(shown, preserving_proto_field_name=True)

    def opened(
        self, event: Message, shard: str, event_id: str, allowed: bool, own: str = ""
    ) -> Message:
        """A copy of the event with plain values, or with marks in their place."""
        shown = copy.deepcopy(event)
        organisation = personal.organisation_of(shard)
        for place in personal.places(shown):
            value = getattr(place.message, place.field)
            spot_id = place.id or event_id
            may = allowed or (bool(own) and place.subject == own)
            if place.pointers is None:
                text = text_of(value)
                if personal.key_of(text):
                    plain = self._opened(organisation, place, spot_id, [place.path], text, may)
                    setattr(place.message, place.field, like(value, plain))
            elif place.pointers and not isinstance(value, Message):
                document = json.loads(value)
                document = self._opened_json(document, "", organisation, place, spot_id, may)
                setattr(place.message, place.field, like(value, compact(document)))
        return shown

    def _opened_json(
        self,
        document: Any,
        pointer: str,
        organisation: str,
        place: personal.Place,
        event_id: str,
        may: bool,
    ) -> Any:
        if personal.key_of(document):
            # An upcaster may have moved it: what it was bound to is among the declared places.
            paths = [f"{place.path}#{at}" for at in (pointer, *(place.pointers or ()))]
            plain = self._opened(organisation, place, event_id, paths, document, may)
            return plain if plain in (ERASED, HIDDEN, document) else json.loads(plain)
        if isinstance(document, dict):
            inside: Iterable[tuple[Any, str]] = [
                (name, personal.escaped(name)) for name in document
            ]
        elif isinstance(document, list):
            inside = [(index, str(index)) for index in range(len(document))]
        else:
            return document
        for name, step in inside:
            document[name] = self._opened_json(
                document[name], f"{pointer}/{step}", organisation, place, event_id, may
            )
        return document

    def _opened(
        self,
        organisation: str,
        place: personal.Place,
        event_id: str,
        paths: Sequence[str],
        text: str,
        may: bool,
    ) -> str:
        """The plain value, a mark, or the text itself where it was never sealed here."""
        if not may:
            return HIDDEN
        try:
            key = self.keyring.get(personal.key_of(text))
        except Unusable as error:
            raise keys_away(error) from error
        if key is None:
            return ERASED
        subject = place.subject or personal.whole_organisation(organisation)
        for path in paths:
            try:
                return unseal(key, Spot(organisation, subject, event_id, path), text).decode()
            except Unreadable:
                continue
        return text


def digests_of(organisation: str) -> str:
    """Whose key digests what names no subject; it dies with each erasure in the organisation."""
    return f"digests:{organisation}"


def keys_away(error: Unusable) -> Failure:
    """What a caller hears while no key can be had."""
    return Failure("UNAVAILABLE", f"personal content cannot be sealed or opened now: {error}")


def compact(document: Any) -> str:
    """A JSON document in the one form in which payloads are stored."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def text_of(value: Any) -> str:
    """A field's value as text; sealed values are ASCII."""
    return value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)


def like(value: Any, text: str) -> Any:
    """A text as the field wants it."""
    return text.encode() if isinstance(value, bytes) else text


def content_of(value: Any) -> bytes:
    """What is digested of a personal field."""
    if isinstance(value, Message):
        return value.SerializeToString(deterministic=True)
    return value if isinstance(value, bytes) else str(value).encode()


def values_of(request: Message) -> set[str]:
    """What must not stand in the words of a refusal."""
    found: set[str] = set()
    for place in personal.places(request):
        value = getattr(place.message, place.field)
        if isinstance(value, Message):
            value = json_format.MessageToJson(value)
        if place.pointers is None:
            found.add(text_of(value))
        elif place.subject or place.pointers:
            try:
                found.update(leaves(json.loads(value)))
            except (ValueError, RecursionError):
                found.add(text_of(value))
    return {value for value in found if value}


def leaves(document: Any) -> Iterator[str]:
    """The text and the numbers of a JSON document, as a message would show them."""
    if isinstance(document, dict):
        for one in document.values():
            yield from leaves(one)
    elif isinstance(document, list):
        for one in document:
            yield from leaves(one)
    elif isinstance(document, str):
        yield document
    elif isinstance(document, int | float) and not isinstance(document, bool):
        yield str(document)
        if float(document).is_integer():
            yield str(int(document))
