"""What people ask of jobs: submit, cancel, pause, resume, dry run.

1. A job is refused when its data is not open to its project or user, or a strict quota would be
   passed. A job that no node could take is accepted; the round says why it waits.
2. A waiting job ends or pauses at once; a placed one is told to stop and ends when it has stopped.
"""

import hashlib

from google.protobuf.message import Message

from loom.decider import Code, Context, Rejected
from loom.v1 import common_pb2
from loom.v1 import scheduler_pb2 as pb
from loom.v1 import security_pb2 as security
from loomos.scheduler.decide.round import preview
from loomos.scheduler.evolve.index import month_of, subjects
from loomos.scheduler.state import ENDED, PRIORITIES, WAITING, Job, State, need_of

__all__ = ["cancel", "dry_run", "pause", "resume", "submit"]

CONTENT_BYTES_MAX = 512 * 1024
SPEC_BYTES_MAX = 640 * 1024
RETRY_BACKOFF_PERCENT = 100
MAX_RUNTIME_SECONDS = 86_400
GRACE_PERIOD_SECONDS = 30
PREEMPTIONS_MAX = 3

QUOTA_NAMES: dict[int, str] = {
    security.QUOTA_KIND_CONCURRENT_JOBS: "concurrent_jobs",
    security.QUOTA_KIND_CONCURRENT_GPUS: "concurrent_gpus (milli)",
    security.QUOTA_KIND_GPU_TIME_PER_MONTH: "gpu_time_per_month (milli-GPU-seconds)",
}


def submit(command: pb.SubmitJobRequest, state: State, context: Context) -> list[Message]:
    """A job enters the queue, its defaults filled in."""
    spec = complete(command.spec)
    check_clearance(spec, command.project_id, state, context)
    check_quotas(spec, command.project_id, state, context)
    priority = PRIORITIES[spec.priority]
    return [
        pb.JobSubmitted(
            job_id=context.new_id("job"),
            cluster_id=state.shard,
            project_id=command.project_id,
            spec=spec,
            priority=priority,
            group_id=group_of(spec, priority),
            submitted_by=context.actor,
            submitted_at_us=context.at_us,
        )
    ]


def complete(given: pb.JobSpec) -> pb.JobSpec:
    """The specification with its defaults, or Rejected where it contradicts itself."""
    spec = pb.JobSpec()
    spec.CopyFrom(given)
    check_resources(spec)
    check_inputs(spec)
    reserved = sorted(name for name in spec.env if name.startswith("LOOMOS_"))
    if reserved:
        raise invalid(f"the name {reserved[0]} is the platform's own: choose another", "spec.env")
    if spec.ByteSize() > SPEC_BYTES_MAX:
        raise invalid(f"it has {spec.ByteSize()} bytes: at most {SPEC_BYTES_MAX}", "spec")
    spec.priority = spec.priority or pb.PRIORITY_CLASS_NORMAL
    spec.classification = spec.classification or common_pb2.DATA_CLASSIFICATION_INTERNAL
    spec.max_runtime_seconds = spec.max_runtime_seconds or MAX_RUNTIME_SECONDS
    spec.grace_period_seconds = spec.grace_period_seconds or GRACE_PERIOD_SECONDS
    spec.preemptions_max = spec.preemptions_max or PREEMPTIONS_MAX
    spec.retry.backoff_percent = spec.retry.backoff_percent or RETRY_BACKOFF_PERCENT
    return spec


def check_resources(spec: pb.JobSpec) -> None:
    """Refuse needs that make no sense."""
    need = spec.resources
    if need.cpu_milli == 0:
        raise invalid("0 given: a job needs some CPU", "spec.resources.cpu_milli")
    if need.memory_bytes == 0:
        raise invalid("0 given: a job needs some memory", "spec.resources.memory_bytes")
    if need.gpu_milli % 1000:
        raise invalid(
            f"{need.gpu_milli} given: want a multiple of 1000, whole GPUs",
            "spec.resources.gpu_milli",
        )
    if need.gpu_milli == 0 and spec.gpu_model:
        raise invalid("a GPU model needs resources.gpu_milli above 0", "spec.gpu_model")
    if need.gpu_milli == 0 and spec.gpu_memory_bytes_min:
        raise invalid("GPU memory needs resources.gpu_milli above 0", "spec.gpu_memory_bytes_min")


def check_inputs(spec: pb.JobSpec) -> None:
    """Fill in the digests of the inputs; refuse wrong ones, doubled paths and too much content."""
    size = sum(len(one.content) for one in spec.inputs)
    if size > CONTENT_BYTES_MAX:
        raise invalid(f"{size} bytes in all: at most {CONTENT_BYTES_MAX}", "spec.inputs")
    paths: set[str] = set()
    for index, one in enumerate(spec.inputs):
        if one.path in paths:
            raise invalid(f"{one.path!r} is given twice", f"spec.inputs[{index}].path")
        paths.add(one.path)
        digest = hashlib.sha256(one.content).digest()
        if one.sha256 and one.sha256 != digest:
            told = f"the content of {one.path!r} has SHA-256 {digest.hex()}, not the one given"
            raise invalid(told, f"spec.inputs[{index}].sha256")
        one.sha256 = digest


def check_clearance(spec: pb.JobSpec, project_id: str, state: State, context: Context) -> None:
    """Refuse data that is not open to the project, or to the user where names are needed."""
    name = common_pb2.DataClassification.Name(spec.classification)
    label = name.removeprefix("DATA_CLASSIFICATION_").lower()
    project = state.projects.get(project_id)
    allowed = (
        {common_pb2.DATA_CLASSIFICATION_PUBLIC, common_pb2.DATA_CLASSIFICATION_INTERNAL}
        if project is None
        else project.classifications
    )
    data = f"dataset {spec.dataset_id!r}" if spec.dataset_id else "the job's data"
    if spec.classification not in allowed:
        raise Rejected(
            Code.PERMISSION_DENIED,
            f"{data} is {label}, which project {project_id} may not use: ask for its clearance",
            "spec.classification",
        )
    user = context.actor.partition(":")[2]
    named = project is not None and user in project.cleared.get(spec.classification, ())
    if spec.classification == common_pb2.DATA_CLASSIFICATION_RESTRICTED and not named:
        raise Rejected(
            Code.PERMISSION_DENIED,
            f"{data} is {label}: {context.actor} is not among those named for it in {project_id};"
            " ask for GrantDatasetAccess",
            "spec.classification",
        )


def check_quotas(spec: pb.JobSpec, project_id: str, state: State, context: Context) -> None:
    """Refuse a job that would pass a strict limit of its user, project or organisation."""
    gpu_milli = spec.resources.gpu_milli
    for subject in subjects(context.actor, project_id):
        used: dict[int, tuple[int, int]] = {
            security.QUOTA_KIND_CONCURRENT_JOBS: (state.open_jobs.get(subject, 0), 1),
            security.QUOTA_KIND_CONCURRENT_GPUS: (
                state.open_gpu_milli.get(subject, 0),
                gpu_milli,
            ),
            security.QUOTA_KIND_GPU_TIME_PER_MONTH: (
                state.gpu_milli_seconds.get((subject, month_of(context.at_us)), 0),
                min(gpu_milli, 1),
            ),
        }
        for kind, (limit, strict) in sorted(state.quotas.get(subject, {}).items()):
            have, more = used.get(kind, (0, 0))
            if strict and more and have + more > limit:
                name = QUOTA_NAMES[kind]
                raise Rejected(
                    Code.RESOURCE_EXHAUSTED,
                    f"quota {name} of {subject} is {limit}: {have} in use and {more} more asked;"
                    " wait for a job to end or ask for a higher quota",
                    "project_id",
                )


def group_of(spec: pb.JobSpec, priority: int) -> str:
    """The group of jobs that are alike to a round."""
    return hashlib.sha256(repr((priority, need_of(spec))).encode()).hexdigest()[:24]


def cancel(command: pb.CancelJobRequest, state: State, context: Context) -> list[Message]:
    """A waiting or paused job ends at once; another is told to stop."""
    job = known(state, command.job_id)
    reason = command.reason or pb.STOP_REASON_CANCELLED
    if reason == pb.STOP_REASON_BUDGET_EXCEEDED and not context.actor.startswith("service:"):
        raise invalid("only a service may say that a budget is exceeded", "reason")
    if job.status in ENDED:
        raise wrong_state(job, "cancelled")
    if job.stop_reason == reason:
        return []
    if job.status in WAITING or job.status == pb.JOB_STATUS_PAUSED:
        return [
            pb.JobFinished(
                job_id=job.job_id,
                run=job.run,
                status=pb.JOB_STATUS_CANCELLED,
                stop_reason=reason,
                detail=command.note or f"cancelled by {context.actor} while it waited",
                at_us=context.at_us,
                project_id=job.project_id,
                node_id=job.node_id,
                checkpoint=job.checkpoint,
            )
        ]
    return [stop(job, reason, command.note, context)]


def pause(command: pb.PauseJobRequest, state: State, context: Context) -> list[Message]:
    """A waiting job stands aside at once; a running one checkpoints first."""
    job = known(state, command.job_id)
    if job.status == pb.JOB_STATUS_PAUSED or job.stop_reason == pb.STOP_REASON_PAUSED:
        return []
    if job.status in ENDED or job.stop_reason:
        raise wrong_state(job, "paused")
    if job.status in WAITING:
        return [
            pb.JobPaused(
                job_id=job.job_id,
                at_us=context.at_us,
                project_id=job.project_id,
                checkpoint=job.checkpoint,
            )
        ]
    return [stop(job, pb.STOP_REASON_PAUSED, "", context)]


def resume(command: pb.ResumeJobRequest, state: State, context: Context) -> list[Message]:
    """A paused job waits again, with its old place in the order."""
    job = known(state, command.job_id)
    if job.status != pb.JOB_STATUS_PAUSED:
        raise wrong_state(job, "resumed")
    return [
        pb.JobRequeued(
            job_id=job.job_id,
            status=pb.JOB_STATUS_QUEUED,
            detail=f"resumed by {context.actor}",
            at_us=context.at_us,
            project_id=job.project_id,
            checkpoint=job.checkpoint,
        )
    ]


def dry_run(command: pb.DryRunJobRequest, state: State, context: Context) -> list[Message]:
    """What a round would do with the job now; the same checks and the same round."""
    spec = complete(command.spec)
    check_clearance(spec, command.project_id, state, context)
    check_quotas(spec, command.project_id, state, context)
    priority = PRIORITIES[spec.priority]
    job = Job(
        job_id=context.new_id("dryrun"),
        project_id=command.project_id,
        submitted_by=context.actor,
        submitted_at_us=context.at_us,
        spec=spec,
        need=need_of(spec),
        priority=priority,
        group_id=group_of(spec, priority),
    )
    answer = preview(job, state, context.at_us)
    for one in spec.inputs:
        one.ClearField("content")
    return [
        pb.DryRunDecided(
            dry_run_id=job.job_id,
            project_id=command.project_id,
            spec=spec,
            answer=answer,
            at_us=context.at_us,
        )
    ]


def stop(job: Job, reason: pb.StopReason, note: str, context: Context) -> pb.JobStopRequested:
    """A placed job is told to stop."""
    return pb.JobStopRequested(
        job_id=job.job_id,
        run=job.run,
        reason=reason,
        grace_period_seconds=job.spec.grace_period_seconds,
        allocation_id=job.allocation_id,
        note=note,
        at_us=context.at_us,
        project_id=job.project_id,
    )


def known(state: State, job_id: str) -> Job:
    """The job of this id, or Rejected."""
    job = state.jobs.get(job_id)
    if job is None:
        raise Rejected(Code.NOT_FOUND, f"no job {job_id!r}", "job_id")
    return job


def invalid(told: str, path: str) -> Rejected:
    """A specification that contradicts itself."""
    return Rejected(Code.INVALID_ARGUMENT, f"{path}: {told}", path)


def wrong_state(job: Job, wanted: str) -> Rejected:
    """A job that is not where the command needs it."""
    status = pb.JobStatus.Name(job.status).removeprefix("JOB_STATUS_")
    return Rejected(
        Code.FAILED_PRECONDITION, f"job {job.job_id} is {status}: it cannot be {wanted}", "job_id"
    )
