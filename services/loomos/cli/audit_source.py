"""`loomos audit export`: the trees and records of a running platform, through its gateway."""

import base64
from collections.abc import Iterator
from pathlib import Path

import httpx

from loom.log.topics import DECIDING
from loomos.cli.audit_export import Exported, export
from loomos.cli.door import Door, segment
from loomos.cli.show import err
from loomos.client.answers import refused_in
from loomos.client.profile import Refused

__all__ = ["Remote", "exported"]

PARTITIONS_MAX = 1024


class Remote:
    """An export's source behind the gateway."""

    def __init__(self, door: Door, organisation: str) -> None:
        self.door = door
        self.organisation = organisation
        self.complete = True
        """Whether every record of every range came."""
        self.deletions: dict[bytes, str] = {}

    def tree(self, log: str, path: str) -> bytes | None:
        """A file of a log's tree."""
        try:
            answer = self.door.client.get(f"/tlog/{log}/{path}")
        except httpx.HTTPError as error:
            raise self.door.silent(error) from error
        if answer.status_code == httpx.codes.NOT_FOUND:
            return None
        if answer.status_code != httpx.codes.OK:
            raise refused_in(answer)
        return answer.content

    def records(self, log: str, first: int, end: int) -> Iterator[bytes]:
        """The stored records of a range, page by page."""
        topic, _, partition = log.rpartition("-")
        place = f"/api/v1/organisations/{segment(self.organisation)}/audit/exports"
        while first < end:
            asked = {
                "topic": topic,
                "partition": int(partition),
                "first_offset": first,
                "end_offset": end,
            }
            page = self.door.call("POST", place, asked, reads=True)
            self.complete &= bool(page.get("complete"))
            for one in page.get("deletions", []):
                self.deletions[base64.b64decode(one["record"])] = one["tlog_proof"]
            yield base64.b64decode(page.get("records", ""))
            at = int(page.get("next_offset", 0))
            if at <= first:
                raise Refused(0, "UNKNOWN", f"{log} has no record from offset {first} on")
            first = at

    def logs(self) -> list[str]:
        """All logs that have a checkpoint."""
        found = []
        for topic in (*DECIDING, "data"):
            for partition in range(PARTITIONS_MAX):
                log = f"loomos.{topic}-{partition}"
                if log in found or self.tree(log, "checkpoint") is None:
                    break
                found.append(log)
        return found

    def public_key(self, log: str) -> str:
        """The notary's public key."""
        topic, _, partition = log.rpartition("-")
        place = f"/api/v1/organisations/{segment(self.organisation)}/audit/checkpoints"
        return str(self.door.call("GET", f"{place}/{topic}/{partition}")["public_key"])


def exported(out: Path, span: tuple[int, int], logs: list[str], organisation: str) -> None:
    """Write an export and tell what is in it."""
    with Door.open() as door:
        organisation = organisation or door.organisation_id
        if not organisation:
            raise Refused(0, "INVALID_ARGUMENT", "whose trail? give --organisation")
        source = Remote(door, organisation)
        logs = logs or source.logs()
        if not logs:
            raise Refused(0, "NOT_FOUND", "nothing is signed yet")
        key = source.public_key(logs[0])
        done = export(
            source,
            logs,
            out,
            public_key=key,
            from_ms=span[0],
            to_ms=span[1],
            complete=organisation == "platform",
            told=tell,
        )
    leaves = sum(one.end - one.first for one in done)
    err.print(f"{leaves} leaves in {out}; the notary's key: {key}", markup=False)
    err.print(f"verify it with: python -I {out}/loomos_verify.py {out} --key …", markup=False)


def tell(one: Exported) -> None:
    """Say what was written of a log."""
    span = f"leaves {one.first} to {one.end} of {one.leaves}"
    err.print(f"{one.log}: {span}, {one.record_bytes} bytes of records", markup=False)
