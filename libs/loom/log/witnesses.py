"""Shows a log's signed checkpoints to witnesses elsewhere, and keeps what they answer.

1. It delays nothing: checkpoints are signed and published whether or not a witness answers. One
   that is away is left alone for a while, then shown the latest.
2. A witness says itself which size it knows (409); the proof from there is made from the tree.
3. A cosignature is kept only if it fits the witness's key, and `witnessed` is replaced only by a
   checkpoint with as many of them as the operator asks for.
"""

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import httpx
import structlog

from . import regular
from .cosign import Submission, WitnessKey
from .merkle import consistency_proof
from .notary import CHECKPOINT_FILE, replace_durably
from .note import Checkpoint, InvalidNote, parse_checkpoint, split
from .tiles import DamagedTree, Tiles, read_bounded

__all__ = ["Policy", "Witness", "Witnesses", "load_policy", "published", "witnessed"]

VARIABLE = "LOOMOS_WITNESSES"
POLICY_BYTES_MAX = 1 << 20
WITNESSED_FILE = "witnessed"
NOTE_BYTES_MAX = 131_072 * 4
ANSWER_S = 5.0
AWAY_S = 15.0
FRESH_S = 60.0
"""How long a newer checkpoint may wait for witnesses before it is served without them."""


class Witness(NamedTuple):
    """One witness, and the way to it."""

    url: str
    key: WitnessKey
    token: str
    ca: str


class Policy(NamedTuple):
    """Who is asked, and how many must have signed for a checkpoint to be shown as witnessed."""

    needed: int = 0
    witnesses: tuple[Witness, ...] = ()


def load_policy(environ: Mapping[str, str], credentials: Path) -> Policy:
    """The policy in the file that LOOMOS_WITNESSES names, else in `witnesses.json` beside the key.

    Raises InvalidNote where there is one that cannot be used.
    """
    given = environ.get(VARIABLE, "")
    path = Path(given) if given else credentials / "witnesses.json"
    if not given and not path.exists():
        return Policy()
    try:
        if path.stat().st_mode & 0o077:
            raise InvalidNote(f"{VARIABLE}: others can read {path}, which holds tokens: chmod 600")
        content = json.loads(regular.read(path, POLICY_BYTES_MAX))
        witnesses = tuple(
            Witness(
                str(one["url"]).rstrip("/"),
                WitnessKey.parse(one["key"]),
                str(one.get("token", "")),
                str(one.get("ca", "")),
            )
            for one in content["witnesses"]
        )
        needed = int(content.get("needed", 1))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidNote(f"{VARIABLE}: {path} cannot be used: {error!r}") from error
    if not 1 <= needed <= len(witnesses):
        raise InvalidNote(f"{VARIABLE}: needed is {needed} of {len(witnesses)} witnesses")
    for one in witnesses:
        if not one.url.startswith("https://"):
            raise InvalidNote(f"{VARIABLE}: {one.url!r}: want https://…")
    return Policy(needed, witnesses)


class Witnesses:
    """Shows the latest checkpoint of each tree to all witnesses, round by round."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self._log = structlog.get_logger()
        self._pending: dict[Path, str] = {}
        self._sizes: dict[tuple[str, str], int] = {}
        """What each witness knows of each origin."""
        self._lines: dict[Path, tuple[str, dict[str, str]]] = {}
        """For each tree, the note that was shown last and who signed it."""
        self._back_at: dict[str, float] = {}
        self._wake = asyncio.Event()

    def show(self, folder: Path, note: str) -> None:
        """Have a tree's newest checkpoint shown in the next round."""
        if self.policy.witnesses:
            self._pending[folder] = note
            self._wake.set()

    async def run(self) -> None:
        """Show what is pending, for ever."""
        if not self.policy.witnesses:
            return
        clients = [client_of(one) for one in self.policy.witnesses]
        try:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._rest()):
                        await self._wake.wait()
                self._wake.clear()
                pending, self._pending = self._pending, {}
                for folder, note in pending.items():
                    if not await self._round(clients, folder, note):
                        self._pending.setdefault(folder, note)
        finally:
            for client in clients:
                await client.aclose()

    def _rest(self) -> float | None:
        """Seconds until a witness that was away is asked again; None while none misses anything."""
        if not self._pending:
            return None
        now = time.monotonic()
        return min((at - now for at in self._back_at.values() if at > now), default=0.1)

    async def _round(self, clients: list[httpx.AsyncClient], folder: Path, note: str) -> bool:
        """Ask every witness that has not signed this note; True when all have."""
        shown, lines = self._lines.get(folder, ("", {}))
        if shown != note:
            lines = {}
        now = time.monotonic()
        asked = [
            (client, one)
            for client, one in zip(clients, self.policy.witnesses, strict=True)
            if one.key.name not in lines and self._back_at.get(one.url, 0.0) <= now
        ]
        answers = await asyncio.gather(*(self._ask(*each, folder, note) for each in asked))
        lines |= {one.key.name: line for (_, one), line in zip(asked, answers, strict=True) if line}
        self._lines[folder] = (note, lines)
        if any(answers) and len(lines) >= self.policy.needed:
            whole = "".join([note, *(lines[name] for name in sorted(lines))])
            await asyncio.to_thread(replace_durably, folder / WITNESSED_FILE, whole.encode())
        return len(lines) == len(self.policy.witnesses)

    async def _ask(
        self, client: httpx.AsyncClient, one: Witness, folder: Path, note: str
    ) -> str | None:
        """One witness's cosignature, or None."""
        checkpoint = parse_checkpoint(split(note)[0])
        try:
            for _ in range(3):
                old = self._sizes.get((one.url, checkpoint.origin), 0)
                if old > checkpoint.size:
                    return self._refused(one, f"it knows {old} leaves, we have {checkpoint.size}")
                body = await asyncio.to_thread(submission_of, folder, old, checkpoint, note)
                answer = await client.post(f"{one.url}/add-checkpoint", content=body)
                if answer.status_code == httpx.codes.CONFLICT:
                    self._sizes[one.url, checkpoint.origin] = int(answer.text.strip()[:20])
                    continue
                if answer.status_code != httpx.codes.OK:
                    return self._refused(one, f"{answer.status_code} {answer.text[:200]!r}")
                self._sizes[one.url, checkpoint.origin] = checkpoint.size
                return line_of(one.key, note, answer.text)
        except (httpx.HTTPError, OSError, ValueError, InvalidNote, DamagedTree) as error:
            return self._refused(one, repr(error))
        return self._refused(one, "it keeps saying another size")

    def _refused(self, one: Witness, why: str) -> None:
        self._back_at[one.url] = time.monotonic() + AWAY_S
        self._log.warning("not witnessed", witness=one.key.name, reason=why)


def client_of(witness: Witness) -> httpx.AsyncClient:
    """The connection to a witness, which trusts its own authority and no other."""
    context = ssl.create_default_context(cafile=witness.ca or None)
    headers = {"Authorization": f"Bearer {witness.token}"} if witness.token else {}
    return httpx.AsyncClient(verify=context, headers=headers, timeout=ANSWER_S, trust_env=False)


def submission_of(folder: Path, old: int, checkpoint: Checkpoint, note: str) -> str:
    """The body that shows a checkpoint to a witness that knows `old` leaves. Reads files."""
    path: list[bytes] = []
    if old:
        tree = Tiles(folder, checkpoint.size)
        path = consistency_proof(old, checkpoint.size, tree.node)
    return Submission(old, tuple(path), note).text()


def line_of(key: WitnessKey, note: str, answer: str) -> str:
    """The line in an answer that is this witness's cosignature; InvalidNote where there is none."""
    for line in answer.splitlines(keepends=True)[:16]:
        if line.startswith(f"— {key.name} ") and key.seen_at(note + line):
            return line
    raise InvalidNote(f"the answer holds no cosignature of {key.name!r}")


def published(folder: Path) -> str:
    """The note to serve: the newest one, with cosignatures where it has them.

    A newer one without them waits for its witnesses, but no longer than FRESH_S.
    """
    newest = note_in(folder / CHECKPOINT_FILE)
    seen = note_in(folder / WITNESSED_FILE)
    if not seen or not newest:
        return newest
    behind = (folder / CHECKPOINT_FILE).stat().st_mtime - (folder / WITNESSED_FILE).stat().st_mtime
    return seen if behind < FRESH_S else newest


def witnessed(folder: Path, policy: Policy) -> tuple[str, list[str]]:
    """The newest note with enough cosignatures, and whose they are; empty where there is none."""
    note = note_in(folder / WITNESSED_FILE)
    if not note:
        return "", []
    try:
        names = [one.key.name for one in policy.witnesses if one.key.seen_at(note)]
        parse_checkpoint(split(note)[0])
    except InvalidNote:
        return "", []
    return (note, names) if len(names) >= policy.needed > 0 else ("", [])


def note_in(path: Path) -> str:
    """A stored note; "" where there is none that can be read."""
    try:
        return read_bounded(path, NOTE_BYTES_MAX).decode()
    except (FileNotFoundError, UnicodeDecodeError, DamagedTree):
        return ""
