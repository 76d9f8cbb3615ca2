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
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.message import Message

from loom import catalogue, personal
from loom.kit.caller import Caller, Scope
from loom.kit.config import Settings
from loom.kit.errors import Failure
from loom.log import providers
from loom.log.keyring import Keyring
from loom.log.keystore import Directory, Unusable
from loom.log.seal import Algorithm, DataKey, Spot, Unreadable, seal, unseal

__all__ = ["ERASED", "HIDDEN", "Sealing", "digests_of"]

ERASED = "[erased]"
"""Stands where the key is gone, for everybody and for ever."""
HIDDEN = "[sealed]"
"""Stands where the caller may not read what is sealed."""
READ = "ReadPersonal"
May = Callable[[DataKey, str], bool]
"""Whether what a key sealed may be shown; which action shows it, "" for the usual one."""
ALGORITHMS = {"aes-256-gcm": Algorithm.AES_256_GCM, "chacha20": Algorithm.CHACHA20_POLY1305}


class Sealing:
    """What one process may do with personal content."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._own = secrets.token_bytes(32)

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
        provider = providers.named(environ.get("LOOMOS_KEY_PROVIDER", "file"), environ, self.folder)
        return Keyring(Directory(self.folder / "data"), provider, ALGORITHMS[name])

    async def prepare(
        self, request: Message, organisation: str, digest: bytes, caller: Caller, action: str
    ) -> bytes:
        """Have the keys of a command's subjects at hand; its digest, keyed where it is personal."""
        if not personal.has_any(request.DESCRIPTOR):
            return digest
        # What names no subject of its own must not outlive an erasure either.
        subjects = {place.subject or digests_of(organisation) for place in personal.places(request)}
        if all(self._at_hand(organisation, subject) for subject in subjects):
            return self._keyed(digest, organisation, subjects)
        if not acts_in(organisation, caller, action):
            # No key is made for who may not do it: a stranger's commands must not fill the store.
            return self._stray(digest)
        return await asyncio.to_thread(self._keyed, digest, organisation, subjects)

    def _at_hand(self, organisation: str, subject: str) -> bool:
        """Whether a subject's keys were used by this process."""
        try:
            return self.keyring.at_hand(organisation, subject)
        except Unusable as error:
            raise keys_away(error) from error

    def _keyed(self, digest: bytes, organisation: str, subjects: Iterable[str]) -> bytes:
        """The digest under the keys of all subjects: the first that dies makes it unguessable."""
        try:
            for subject in sorted(subjects):
                self.keyring.newest(organisation, subject)
                digest = self.keyring.digest(organisation, subject, "command", digest)
        except Unusable as error:
            raise keys_away(error) from error
        return digest

    def _stray(self, content: bytes) -> bytes:
        """A digest that this process alone could make, and only for as long as it lives."""
        return hmac.digest(self._own, content, "sha256")

    def digest(self, organisation: str, subject: str, content: bytes) -> bytes:
        """A digest of somebody's content by which it is known again while his key lives.

        It makes no key: `prepare` has made it for who may act.
        """
        holder = subject or digests_of(organisation)
        if not self._at_hand(organisation, holder):
            return self._stray(content)
        try:
            return self.keyring.digest(organisation, holder, "content", content)
        except Unusable as error:
            raise keys_away(error) from error

    def index(self, organisation: str, field: str, value: str) -> str:
        """By what a sealed value is looked up: a digest under the organisation's own key."""
        try:
            holder = index_of(organisation)
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
        subject = place.subject or personal.whole_organisation(organisation)
        value = getattr(place.message, place.field)

        def sealed(path: str, content: str | bytes) -> str:
            key = self.keyring.newest(organisation, subject)
            content = content.encode() if isinstance(content, str) else content
            return seal(key, Spot(place.id or event_id, path), content)

        if place.pointers is None:
            if not personal.key_of(text_of(value)):
                setattr(place.message, place.field, like(value, sealed(place.path, value)))
        elif place.pointers:
            document = sealed_json(json.loads(value), place, sealed)
            setattr(place.message, place.field, like(value, compact(document)))

    async def open(self, message: Message, caller: Caller, event_id: str = "") -> Message:
        """The message as the caller may read it: an event of that id, or an answer."""
        if not personal.has_any(message.DESCRIPTOR):
            return message
        return await asyncio.to_thread(self.opened, message, event_id, self._rights(caller))

    def _rights(self, caller: Caller) -> May:
        """What the caller may read, as the policies say now."""
        own = caller.principal.removeprefix("user:")

        scopes: dict[str, Scope] = {}

        def may(key: DataKey, action: str) -> bool:
            scope = scopes.get(action)
            if scope is None:
                scope = scopes[action] = caller.scope(action or READ)
            return scope.all or key.organisation in scope.organisations or key.subject == own

        return may

    async def open_dict(
        self, kind: str, payload: dict[str, Any], event_id: str, caller: Caller
    ) -> dict[str, Any]:
        """An event as the audit index has it, by its field names, as the caller may read it."""
        if "append_id" in payload and "event_type" in payload:
            return await self._open_users(payload, caller)
        found = catalogue.events().get(kind)
        if found is None or not personal.has_any(found.DESCRIPTOR):
            return payload
        event = json_format.ParseDict(payload, found())
        shown = await self.open(event, caller, event_id)
        return json_format.MessageToDict(shown, preserving_proto_field_name=True)

    async def _open_users(self, payload: dict[str, Any], caller: Caller) -> dict[str, Any]:
        """A user's event, whose content the index has as JSON."""
        if not payload.get("sealed_paths"):
            return payload
        own = str(payload.get("event_id", ""))
        pointers = tuple(payload["sealed_paths"])
        document = copy.deepcopy(payload.get("payload"))
        content = await asyncio.to_thread(
            self._opened_json, document, "", "", pointers, own, self._rights(caller)
        )
        return payload | {"payload": content}

    def opened(self, message: Message, event_id: str, may: May) -> Message:
        """A copy of the message with plain values, or with marks in their place."""
        shown = copy.deepcopy(message)
        for place in personal.places(shown):
            value = getattr(place.message, place.field)
            spot_id = place.id or event_id
            if isinstance(value, Message):
                continue
            if place.pointers is None:
                text = text_of(value)
                if personal.key_of(text):
                    spots = [Spot(spot_id, place.path)]
                    plain = self._opened(spots, text, may, place.action)
                    setattr(place.message, place.field, like(value, plain))
            elif place.pointers:
                document = json.loads(value)
                document = self._opened_json(document, "", place.path, place.pointers, spot_id, may)
                setattr(place.message, place.field, like(value, compact(document)))
        return shown

    def _opened_json(
        self,
        document: Any,
        pointer: str,
        path: str,
        pointers: tuple[str, ...],
        spot_id: str,
        may: May,
    ) -> Any:
        if personal.key_of(document):
            # An upcaster may have moved it: what it was bound to is among the declared places.
            spots = [Spot(spot_id, f"{path}#{at}") for at in (pointer, *pointers)]
            plain = self._opened(spots, document, may)
            return plain if plain in (ERASED, HIDDEN, document) else json.loads(plain)
        if isinstance(document, dict):
            for name in document:
                at = f"{pointer}/{personal.escaped(name)}"
                inner = self._opened_json(document[name], at, path, pointers, spot_id, may)
                document[name] = inner
        elif isinstance(document, list):
            for index, one in enumerate(document):
                at = f"{pointer}/{index}"
                document[index] = self._opened_json(one, at, path, pointers, spot_id, may)
        return document

    def _opened(self, spots: Iterable[Spot], text: str, may: May, action: str = "") -> str:
        """The plain value, a mark, or the text itself where it was never sealed here."""
        try:
            key = self.keyring.get(personal.key_of(text))
        except Unusable as error:
            raise keys_away(error) from error
        if key is None:
            return ERASED
        if not may(key, action):
            return HIDDEN
        for spot in spots:
            try:
                return unseal(key, spot, text).decode()
            except Unreadable:
                continue
        return text


def sealed_json(
    document: Any, place: personal.Place, sealed: Callable[[str, str | bytes], str]
) -> Any:
    """The document with its personal places sealed; what is sealed already stays."""
    for pointer in place.pointers or ():
        if not pointer:
            if personal.key_of(document):
                return document
            return sealed(f"{place.path}#", compact(document))
        for holder, name, exact in personal.spots(document, pointer):
            if not personal.key_of(holder[name]):
                holder[name] = sealed(f"{place.path}#{exact}", compact(holder[name]))
    return document


def acts_in(organisation: str, caller: Caller, action: str) -> bool:
    """Whether the caller may do the action anywhere in the organisation."""
    scope = caller.scope(action)
    projects = (personal.organisation_of(project) for project in scope.projects)
    return scope.all or organisation in scope.organisations or organisation in projects


def index_of(organisation: str) -> str:
    """Whose key makes the values by which sealed fields are looked up."""
    return f"index:{organisation}"


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
