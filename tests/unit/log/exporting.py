"""Makes exports from judged logs, without a broker or a gateway."""

from hashlib import sha256

from segment_bytes import judged, make_log

from loom.log.envelope import Origin, draft, seal
from loom.log.export import Frame, stored_bytes
from loom.log.judge import Kind, Stamp, digest
from loom.log.merkle import inclusion_proof
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.proof import Proof
from loom.log.tiles import Tiles, parse_tile_path
from loom.log.witnesses import published
from loom.v1 import loomdb_pb2
from loomos.cli.audit_export import export


class Local:
    """An export's source that reads a notary's folder and a log in memory."""

    def __init__(self, folders, logs):
        self.folders = folders
        self.logs = logs
        self.deletions = {}

    def tree(self, log, path):
        folder, size = self.folders[log]
        if path == "checkpoint":
            return published(folder).encode()
        return Tiles(folder, size).file(*parse_tile_path(path))

    def records(self, log, first, end):
        for record in self.logs[log]:
            if first <= record.offset < end:
                stored = stored_bytes(record.key, record.headers, record.value)
                yield Frame(record.offset, record.time_ms, stored).pack()


def deletion(tmp_path, signer, of, offsets, policy="rule *=1 days", topic="loomos.loomdb"):
    """An `archive.deleted` event as an export holds it: the packed record, and its proof."""
    log = judged_deletion(of, offsets, policy)
    notary, (note,) = sealed(tmp_path, topic, 0, judged(log), signer)
    tree = Tiles(notary.folder, 2)
    proof = Proof(tree.entry(1), 1, tuple(inclusion_proof(1, 2, tree.node)), note)
    stored = stored_bytes(log[1].key, log[1].headers, log[1].value)
    return Frame(1, log[1].time_ms, stored).pack(), proof.text()


def judged_deletion(of, offsets, policy="rule *=1 days"):
    """A log of loomdb's: a marker, and the event that a policy deleted these offsets."""
    event = loomdb_pb2.ArchiveDeleted(
        log_id="x", organisation_id="platform", topic=of[0], partition=of[1], offsets=offsets,
        policy=policy,
    )  # fmt: skip
    origin = Origin("/loomos/loomdb", "platform", "service:loomdb", policy, bytes(32), 1, 1, "", "")
    (drafted,) = draft([event], [1], origin)
    log = make_log(3)[:2]
    before = sha256(digest(b"", log[0].headers, b"") + bytes(32)).digest()
    made = seal(drafted, Stamp(Kind.EVENT, 0, 1, b"c" * 16, 1, 1, 1, before))
    log[1] = log[1]._replace(key=made.key, value=made.value, headers=tuple(made.headers))
    return log


def sealed(folder, topic, partition, judged, signer=None, sizes=()):
    """A notary's tree of a judged log; the notes that it signed at these sizes and at the end."""
    signer = signer or load_signer(folder / "credentials", "loomos")
    notary = Notary(folder / "trees", topic, partition, signer)
    notes = []
    for count, (record, verdict) in enumerate(judged, start=1):
        notary.append(record.offset, record.time_ms, verdict)
        if count in sizes:
            notes.append(notary.seal())
    notes.append(notary.seal())
    return notary, notes


def exported(folder, out, topic, partition, log, judged, **more):
    """An export of one log; gives the notary's signer."""
    signer = load_signer(folder / "credentials", "loomos")
    notary, _ = sealed(folder, topic, partition, judged, signer)
    name = f"{topic}-{partition}"
    source = Local({name: (notary.folder, notary.size)}, {name: log})
    export(source, [name], out, public_key=signer.verifier.text(), **more)
    return signer
