"""What may enter the queue: defaults, contradictions, clearances, quotas."""

import pytest
from cluster import NOW_US, Cluster, node, spec

from loom.decider import Code, Resource
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as pb
from loom.v1 import security_pb2 as security
from loomos.scheduler.decide import resource
from loomos.scheduler.evolve import evolve


def request(job: pb.JobSpec) -> pb.SubmitJobRequest:
    return pb.SubmitJobRequest(project_id="acme.vision", spec=job)


def test_defaults_are_filled_in_and_logged():
    cluster = Cluster()
    (event,) = cluster.tell(request(spec()))
    assert event.priority == 500
    assert event.spec.max_runtime_seconds == 86_400
    assert event.spec.grace_period_seconds == 30
    assert event.spec.preemptions_max == 3
    assert event.spec.classification == common_pb2.DATA_CLASSIFICATION_INTERNAL
    assert event.submitted_at_us == NOW_US


@pytest.mark.parametrize(
    ("job", "field"),
    [
        (pb.JobSpec(name="x", command=["x"]), "spec.resources.cpu_milli"),
        (
            pb.JobSpec(name="x", command=["x"], resources=common_pb2.Resources(cpu_milli=1)),
            "spec.resources.memory_bytes",
        ),
        (
            pb.JobSpec(
                name="x",
                command=["x"],
                resources=common_pb2.Resources(cpu_milli=1, memory_bytes=1, gpu_milli=500),
            ),
            "spec.resources.gpu_milli",
        ),
        (spec(gpu_model="A100"), "spec.gpu_model"),
        (spec(gpu_memory_bytes_min=1), "spec.gpu_memory_bytes_min"),
        (spec(env={"LOOMOS_JOB_ID": "x"}), "spec.env"),
        (spec(inputs=[pb.InputFile(path="a"), pb.InputFile(path="a")]), "spec.inputs[1].path"),
        (spec(inputs=[pb.InputFile(path="a", sha256=bytes(32))]), "spec.inputs[0].sha256"),
        (
            spec(inputs=[pb.InputFile(path=str(n), content=bytes(300_000)) for n in range(2)]),
            "spec.inputs",
        ),
        (spec(args=["x" * 4096] * 256), "spec"),
    ],
)
def test_a_job_that_contradicts_itself_is_refused_by_field(job: pb.JobSpec, field: str):
    refusal = Cluster().refused(request(job), Code.INVALID_ARGUMENT)
    assert refusal.field == field
    assert refusal.message.startswith(f"{field}: ")


def test_data_above_the_project_s_clearance_is_refused():
    cluster = Cluster(node("a"))
    job = spec(dataset_id="ct", classification=common_pb2.DATA_CLASSIFICATION_CONFIDENTIAL)
    refusal = cluster.refused(request(job), Code.PERMISSION_DENIED)
    assert "confidential" in refusal.message
    project = security.ProjectCreated(
        project_id="acme.vision",
        organisation_id="acme",
        classifications=[common_pb2.DATA_CLASSIFICATION_CONFIDENTIAL],
    )
    evolve(cluster.scheduler, project)
    cluster.submit(job)


def test_restricted_data_needs_a_name():
    cluster = Cluster()
    restricted = common_pb2.DATA_CLASSIFICATION_RESTRICTED
    evolve(
        cluster.scheduler,
        security.ProjectCreated(project_id="acme.vision", classifications=[restricted]),
    )
    job = spec(classification=restricted)
    cluster.refused(request(job), Code.PERMISSION_DENIED)
    access = security.DatasetAccessGranted(
        user_id="usr-acme-x", project_id="acme.vision", classification=restricted
    )
    evolve(cluster.scheduler, access)
    cluster.submit(job)
    revoked = security.DatasetAccessRevoked()
    revoked.user_id, revoked.project_id = "usr-acme-x", "acme.vision"
    revoked.classification = restricted
    evolve(cluster.scheduler, revoked)
    cluster.refused(request(job), Code.PERMISSION_DENIED)


@pytest.mark.parametrize("subject", ["usr-acme-x", "acme.vision", "acme"])
@pytest.mark.parametrize(
    ("kind", "limit"),
    [
        (security.QUOTA_KIND_CONCURRENT_JOBS, 1),
        (security.QUOTA_KIND_CONCURRENT_GPUS, 1000),
    ],
)
def test_a_strict_quota_refuses_what_would_pass_it(subject: str, kind: int, limit: int):
    cluster = Cluster(node("a", gpus=2))
    set_quota(cluster, subject, kind, limit)
    first = cluster.submit(spec(gpus=1))
    refusal = cluster.refused(request(spec(gpus=1)), Code.RESOURCE_EXHAUSTED)
    assert subject in refusal.message
    cluster.tell(pb.CancelJobRequest(job_id=first))
    cluster.submit(spec(gpus=1))


def test_a_quota_that_only_warns_refuses_nothing():
    cluster = Cluster()
    warning = security.QUOTA_ENFORCEMENT_WARNING
    set_quota(cluster, "acme", security.QUOTA_KIND_CONCURRENT_JOBS, 0, warning)
    cluster.submit(spec())


def test_gpu_time_is_counted_by_calendar_month():
    cluster = Cluster(node("a", gpus=1))
    set_quota(cluster, "acme", security.QUOTA_KIND_GPU_TIME_PER_MONTH, 60_000)
    job_id = cluster.submit(spec(gpus=1))
    cluster.settle()
    cluster.start(job_id)
    cluster.wait(60)
    cluster.finish(job_id)
    cluster.refused(request(spec(gpus=1)), Code.RESOURCE_EXHAUSTED)
    cluster.submit(spec())
    cluster.now_us += 31 * 86_400_000_000
    cluster.submit(spec(gpus=1))


def set_quota(
    cluster: Cluster,
    subject: str,
    kind: int,
    limit: int,
    enforcement: int = security.QUOTA_ENFORCEMENT_STRICT,
) -> None:
    event = security.QuotaSet(subject_id=subject, organisation_id="acme")
    one = event.limits.add()
    one.kind, one.limit, one.enforcement = kind, limit, enforcement
    evolve(cluster.scheduler, event)


def test_unknown_jobs_touch_nothing_and_known_ones_their_project():
    cluster = Cluster()
    job_id = cluster.submit(spec())
    assert resource(pb.CancelJobRequest(job_id="job-local-x"), cluster.scheduler) is None
    owner = resource(pb.CancelJobRequest(job_id=job_id), cluster.scheduler)
    assert owner == Resource("project", "acme.vision")
