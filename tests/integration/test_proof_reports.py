"""Proofs, exports and reports of LoomDB as one process on real stores, verified by a stranger."""

import json
import subprocess
import sys

import pytest
from test_notary_service import caller, command, eventually, shell, tell, write
from tests.appending import origin

from loom.decider import Code, Rejected
from loom.kit.errors import Failure
from loom.log import envelope
from loom.log.export import frames_in
from loom.log.note import Verifier
from loom.log.proof import Proof
from loom.v1 import checkpoint_pb2, deployment_pb2, scheduler_pb2, security_pb2
from loom.v1 import loomdb_pb2 as pb
from loomos.cli.audit_export import export
from loomos.loomdb.stream import get_tree_file
from loomos.verify import loomos_verify

__all__ = ["shell"]

pytestmark = [pytest.mark.bus, pytest.mark.db]
TODAY = "2026-11-22"


def verify(*words):
    script = [sys.executable, "-I", "-S", loomos_verify.__file__, *map(str, words)]
    return subprocess.run(script, capture_output=True, text=True, check=False)


def people(organisation, story="story-people"):
    """Somebody gets a role and keys, and loses one of them."""
    user = f"usr-{organisation}-{'a' * 20}"
    grant = security_pb2.RoleGrant()
    events = [
        security_pb2.UserCreated(
            user_id=user, organisation_id=organisation, user_name="Ada <b>Łovelace</b>"
        ),
        security_pb2.RoleGranted(user_id=user, grant=grant),
        security_pb2.ApiKeyCreated(
            api_key_id="key-1", user_id=user, secret_sha256=bytes(32), expires_at_us=2**52
        ),
        security_pb2.ApiKeyCreated(api_key_id="key-2", user_id=user, secret_sha256=bytes(32)),
        security_pb2.ApiKeyRevoked(api_key_id="key-2"),
        security_pb2.LoginFailed(user_id=user, failures=1),
    ]
    told = origin("security", organisation, f"user:{user}", story)
    return user, envelope.draft(events, range(1, len(events) + 1), told)


async def trained(bus):
    """A dataset's way to an endpoint, event by event, and a job on it that is somebody else's."""
    lineage = deployment_pb2.Lineage(job_id="job-1", run=1, dataset_id="iris")
    requested = deployment_pb2.DeploymentRequested(
        deployment_id="dep-1", revision=1, model_id="model-1"
    )
    told = (
        ("scheduler", "acme.vision", scheduler_pb2.JobSubmitted(
            job_id="job-1", project_id="acme.vision",
            spec=scheduler_pb2.JobSpec(dataset_id="iris"))),
        ("scheduler", "other.vision", scheduler_pb2.JobSubmitted(
            job_id="job-2", project_id="other.vision",
            spec=scheduler_pb2.JobSpec(dataset_id="iris"))),
        ("checkpoint", "acme.vision", checkpoint_pb2.CheckpointRecorded(
            checkpoint_id="ckpt-1", project_id="acme.vision", job_id="job-1")),
        ("deployment", "acme.vision", deployment_pb2.ModelVersionRegistered(
            model_id="model-1", version=1, lineage=lineage, project_id="acme.vision")),
        ("deployment", "acme.vision", requested),
        ("deployment", "acme.vision", deployment_pb2.DeploymentActivated(
            deployment_id="dep-1", revision=1)),
    )  # fmt: skip
    for service, shard, event in told:
        drafts = envelope.draft([event], [1], origin(service, shard, story="story-lineage"))
        await write(bus, f"loomos.{service}", [drafts])


async def test_lineage_leads_from_dataset_to_endpoint_and_back(shell, platform):
    await trained(platform.administrator)
    acme = caller("acme")
    expected = [
        "job.submitted", "checkpoint.recorded", "model.version.registered",
        "deployment.requested", "deployment.activated",
    ]  # fmt: skip

    async def reported():
        request = pb.ReportLineageRequest(organisation_id="acme", thing_id="iris")
        made = await tell(shell, request, acme)
        return made if made.rows == len(expected) else None

    made = await eventually(reported)
    for thing in ("iris", "job-1", "ckpt-1", "model-1", "dep-1"):
        request = pb.ReportLineageRequest(organisation_id="acme", thing_id=thing, cut=made.cut)
        found = json.loads((await tell(shell, request, acme)).content)
        rows = [row["type"] for section in found["sections"] for row in section["rows"]]
        assert rows == expected, thing


class Served:
    """An export's source that asks LoomDB itself; what it asks is asked ahead of time."""

    def __init__(self, files, records):
        self.files = files
        self.pages = records
        self.deletions = {}

    def tree(self, log, path):
        return self.files.get(path)

    def records(self, log, first, end):
        yield from self.pages


async def file_of(shell, who, tree_id, path):
    request = pb.GetTreeFileRequest(tree_id=tree_id, path=path)
    return await anext(get_tree_file(request, who, shell))


async def test_proofs_exports_and_reports(shell, platform, tmp_path):
    bus = platform.administrator
    user, drafts = people("acme")
    stranger, others = people("other")
    await write(bus, "loomos.security", [drafts, others, command("acme", "story-1")])
    acme, everybody = caller("acme"), caller()
    public_key = shell.settings.credentials / "notary.pub"

    async def proved():
        request = pb.GetEventProofRequest(organisation_id="acme", event_id=drafts[1].id)
        return await tell(shell, request, acme)

    found = await eventually(proved)
    leaf, _ = Proof.parse(found.tlog_proof).verify(Verifier.parse(public_key.read_text()))
    assert leaf.offset == found.position.offset == 2
    (tmp_path / "e.tlog-proof").write_text(found.tlog_proof)
    assert verify(tmp_path / "e.tlog-proof", "--key", public_key).returncode == 0
    foreign = pb.GetEventProofRequest(organisation_id="acme", event_id=others[1].id)
    with pytest.raises(Rejected) as refused:
        await tell(shell, foreign, acme)
    assert refused.value.code == Code.NOT_FOUND
    ids = [drafts[0].id, "unknown", others[0].id, drafts[5].id]
    many = await tell(shell, pb.ProveEventsRequest(organisation_id="acme", event_ids=ids), acme)
    assert [one.event_id for one in many.proofs] == [drafts[0].id, drafts[5].id]
    assert list(many.unproved_event_ids) == ["unknown", others[0].id]

    # The export of the platform is complete and verifies; an organisation's holds its own only.
    note = await file_of(shell, everybody, "loomos.security-0", "checkpoint")
    assert not note.immutable
    size = int(note.content.decode().split("\n")[1])
    assert size == 15
    entries = pb.ReadTreeEntriesRequest(
        organisation_id="acme", tree_id="loomos.security-0", path=f"tile/entries/000.p/{size}"
    )
    files = {
        "checkpoint": note.content,
        f"tile/0/000.p/{size}": (
            await file_of(shell, everybody, "loomos.security-0", f"tile/0/000.p/{size}")
        ).content,
        f"tile/entries/000.p/{size}": (await tell(shell, entries, acme)).content,
    }
    for path in (f"tile/0/000.p/{size + 1}", "tile/0/0", "tile/0/001", "../signed.json"):
        with pytest.raises(Rejected):
            await file_of(shell, everybody, "loomos.security-0", path)
    with pytest.raises(Rejected):
        await file_of(shell, everybody, "loomos.security-0", f"tile/entries/000.p/{size}")
    asked = pb.ExportRecordsRequest(
        organisation_id="platform", topic="loomos.security", end_offset=100
    )
    whole = await tell(shell, asked, everybody)
    assert whole.complete
    source = Served(files, [whole.records])
    key_text = public_key.read_text()
    export(source, ["loomos.security-0"], tmp_path / "export", public_key=key_text)
    result = verify(tmp_path / "export", "--key", public_key)
    assert result.returncode == 0, result.stdout + result.stderr
    asked.organisation_id = "acme"
    own = await tell(shell, asked, acme)
    assert not own.complete
    assert {frame.offset for frame in frames_in(own.records)} == {1, 2, 3, 4, 5, 6, 13, 14}

    # A report: the same bytes for the same cut, whatever happened since; every row proved.
    request = pb.ReportAccessRequest(
        organisation_id="acme", period="2026Q4", format=pb.REPORT_FORMAT_JSON
    )
    first = await tell(shell, request, acme)
    report = json.loads(first.content)
    titles = [section["title"] for section in report["sections"]]
    assert titles[0] == "Access in force at the end of 2026Q4"
    standing = [row["type"] for row in report["sections"][0]["rows"]]
    assert sorted(standing) == ["api.key.created", "role.granted"]
    failed = {row["type"] for row in report["sections"][2]["rows"]}
    assert failed == {"login.failed", "command.refused"}
    assert stranger not in first.content.decode()
    assert "secret_sha256" not in first.content.decode()
    await write(bus, "loomos.security", [people("acme", "story-later")[1]])
    request.cut = first.cut
    again = await tell(shell, request, acme)
    assert (again.content, again.manifest) == (first.content, first.manifest)
    pages = {"json": first}
    for name, form in (("html", pb.REPORT_FORMAT_HTML), ("pdf", pb.REPORT_FORMAT_PDF)):
        request.format = form
        pages[name] = await tell(shell, request, acme)
        assert pages[name].content == (await tell(shell, request, acme)).content
        assert pages[name].manifest == first.manifest
    assert b"&lt;b&gt;" in pages["html"].content
    assert b"<b>" not in pages["html"].content
    assert pages["pdf"].content.startswith(b"%PDF-")
    for name, page in pages.items():
        path = tmp_path / f"report.{name}"
        path.write_bytes(page.content)
        path.with_name(f"{path.name}.manifest").write_text(page.manifest)
        result = verify(path, "--key", public_key)
        assert result.returncode == 0, result.stderr
        path.write_bytes(page.content.replace(b"2026Q4", b"2026Q3"))
        assert verify(path, "--key", public_key).returncode == 2

    for other in (
        pb.ReportActivityRequest(organisation_id="acme", period=TODAY),
        pb.ReportSubjectRequest(organisation_id="acme", subject_id=user),
        pb.ReportLineageRequest(organisation_id="acme", thing_id="job-x"),
    ):
        made = await tell(shell, other, acme)
        rows = [row for part in json.loads(made.content)["sections"] for row in part["rows"]]
        assert made.rows == len(rows)
        assert stranger not in made.content.decode()
    for bad in ("nonsense", "loomos.security/0:99999999", "loomos.nothing/0:1"):
        request.cut = bad
        with pytest.raises((Rejected, Failure)):
            await tell(shell, request, acme)

    async def recorded():
        page = await tell(
            shell,
            pb.ListEventsRequest(organisation_id="acme", type_prefix="report.", limit=50),
            acme,
        )
        return [event.payload["report"] for event in page.events]

    issued = await eventually(recorded)
    assert issued[0] == "access"
