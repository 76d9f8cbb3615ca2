"""Makes exports from judged logs, without a broker or a gateway."""

from loom.log.export import Frame, stored_bytes
from loom.log.notary import Notary
from loom.log.note import load_signer
from loom.log.tiles import Tiles, parse_tile_path
from loom.log.witnesses import published
from loomos.cli.audit_export import export


class Local:
    """An export's source that reads a notary's folder and a log in memory."""

    def __init__(self, folders, logs):
        self.folders = folders
        self.logs = logs

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
