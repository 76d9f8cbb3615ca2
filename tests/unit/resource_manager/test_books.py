"""The books: registration, grants, reports, sessions, loss, health."""

import pytest
from cluster import GIB, NOW_US, SECOND_US, node, spec
from given import Given, given

import loomos.resource_manager
from loom.decider import Code
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb

A = node("a", gpus=2)


def connected(one: rm.RegisterNodeRequest = A) -> Given:
    registered = given(loomos.resource_manager).when(one).accepted()
    hello = rm.ConnectNodeRequest(node_id=one.node_id, session_id="s1", boot_id="b")
    return registered.when(hello, command_id="c-2").accepted()


def grants(*jobs: tuple[str, int, pb.JobSpec], node_id: str = A.node_id):
    return rm.GrantAllocationsRequest(
        cluster_id="local",
        grants=[
            rm.Grant(
                node_id=node_id,
                run=rm.RunSpec(job_id=job_id, run=run, project_id="acme.vision", spec=one),
            )
            for job_id, run, one in jobs
        ],
    )


def held(books: Given, job_id: str = "j1", run: int = 1, job: pb.JobSpec | None = None):
    outcome = books.when(grants((job_id, run, job or spec())), command_id=f"g-{job_id}-{run}")
    return outcome.accepted(), outcome.one(rm.AllocationGranted).allocation_id


def test_registering_again_with_the_same_changes_nothing():
    books = given(loomos.resource_manager).when(A).accepted()
    books.when(A, at_us=NOW_US + 1).then()


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda one: one.gpus.append(one.gpus[0]), Code.INVALID_ARGUMENT),
        (lambda one: one.capacity.MergeFrom(common_pb2.Resources(gpu_milli=1)), "INVALID_ARGUMENT"),
    ],
)
def test_gpus_that_do_not_add_up_are_refused(change, code: str):
    one = rm.RegisterNodeRequest()
    one.CopyFrom(A)
    change(one)
    given(loomos.resource_manager).when(one).refused(code)


def test_another_node_s_gpu_is_refused():
    thief = node("b", gpus=1)
    thief.gpus[0].uuid = A.gpus[0].uuid
    given(loomos.resource_manager).when(A).accepted().when(thief).refused(Code.ALREADY_EXISTS)


def test_a_node_may_not_register_less_than_it_holds():
    books, _ = held(connected(), job=spec(gpus=2))
    books.when(node("a", gpus=1)).refused(Code.FAILED_PRECONDITION, "gpus")
    books.when(node("a", cpus=0, gpus=2)).refused(Code.FAILED_PRECONDITION, "capacity")


def test_grants_of_one_command_see_each_other():
    outcome = connected().when(
        grants(("j1", 1, spec(gpus=1)), ("j2", 1, spec(gpus=2)), ("j3", 1, spec(gpus=1)))
    )
    refused = outcome.one(rm.AllocationRefused)
    assert (refused.job_id, refused.reason) == ("j2", rm.REFUSAL_REASON_NO_ROOM)
    books = outcome.accepted()
    (one,) = books.state.nodes.values()
    assert one.held_gpus == {"GPU-a0", "GPU-a1"}
    assert one.used == (2000, 2 * GIB, 2000, 0)


@pytest.mark.parametrize(
    ("job", "want"),
    [
        (spec(cpus=9), rm.REFUSAL_REASON_NO_ROOM),
        (spec(gpus=1, gpu_model="H100"), rm.REFUSAL_REASON_NO_GPU),
        (spec(gpus=1, gpu_memory_bytes_min=80 * GIB), rm.REFUSAL_REASON_NO_GPU),
    ],
)
def test_what_does_not_fit_is_refused_with_a_reason(job: pb.JobSpec, want: int):
    assert connected().when(grants(("j1", 1, job))).one(rm.AllocationRefused).reason == want


def test_unknown_cordoned_and_unconnected_nodes_are_refused():
    gone = grants(("j1", 1, spec()), node_id="node-local-none")
    refused = connected().when(gone).one(rm.AllocationRefused)
    assert refused.reason == rm.REFUSAL_REASON_UNKNOWN_NODE
    only_registered = given(loomos.resource_manager).when(A).accepted()
    cordoned = connected().when(rm.CordonNodeRequest(node_id=A.node_id)).accepted()
    for books in (only_registered, cordoned):
        refused = books.when(grants(("j1", 1, spec()))).one(rm.AllocationRefused)
        assert refused.reason == rm.REFUSAL_REASON_NODE_NOT_READY


def test_a_job_holds_one_place_and_only_newer_runs_get_one():
    books, allocation_id = held(connected())
    refused = books.when(grants(("j1", 2, spec()))).one(rm.AllocationRefused)
    assert refused.reason == rm.REFUSAL_REASON_RUN_HELD
    refused = books.when(grants(("j1", 1, spec()))).one(rm.AllocationRefused)
    assert refused.reason == rm.REFUSAL_REASON_OLD_RUN
    books = books.when(finish(allocation_id, 1), command_id="f").accepted()
    refused = books.when(grants(("j1", 1, spec()))).one(rm.AllocationRefused)
    assert refused.reason == rm.REFUSAL_REASON_OLD_RUN
    held(books, run=2)


def finish(allocation_id: str, run: int, exit_code: int = 0):
    result = pb.RunResult(outcome=pb.RUN_OUTCOME_EXITED, exit_code=exit_code)
    return rm.ReportAllocationFinishedRequest(allocation_id=allocation_id, run=run, result=result)


def test_reports_of_another_generation_or_a_free_place_are_refused():
    books, allocation_id = held(connected(), run=2)
    books.when(finish(allocation_id, 1)).refused(Code.FAILED_PRECONDITION, "run")
    books.when(finish("allocation-local-x", 1)).refused(Code.NOT_FOUND)
    after = books.when(finish(allocation_id, 2)).accepted()
    after.when(finish(allocation_id, 2), command_id="again").refused(Code.NOT_FOUND)


def test_a_report_counts_once_and_a_release_asks_once():
    books, allocation_id = held(connected())
    started = rm.ReportAllocationStartedRequest(allocation_id=allocation_id, run=1)
    books = books.when(started).accepted()
    books.when(started, command_id="again").then()
    stop = rm.ReleaseAllocationRequest(
        allocation_id=allocation_id, reason=pb.STOP_REASON_PREEMPTED, preemptor_job_id="j2"
    )
    books = books.when(stop).accepted()
    books.when(stop, command_id="again").then()


def test_a_released_place_says_what_to_pay_for():
    books, allocation_id = held(connected(), job=spec(gpus=1))
    started = rm.ReportAllocationStartedRequest(allocation_id=allocation_id, run=1)
    books = books.when(started, at_us=NOW_US + 5).accepted()
    released = books.when(finish(allocation_id, 1), at_us=NOW_US + 9).one(rm.AllocationReleased)
    assert (released.granted_at_us, released.started_at_us) == (NOW_US, NOW_US + 5)
    assert released.resources.gpu_milli == 1000
    assert released.gpu_uuids == ["GPU-a0"]


def test_a_session_compares_the_node_with_the_books():
    books, kept = held(connected(), "kept")
    books, missing = held(books, "missing")
    books, gone = held(books, "gone")
    books, told = held(books, "told")
    for name in (kept, gone, told):
        started = rm.ReportAllocationStartedRequest(allocation_id=name, run=1)
        books = books.when(started, command_id=name[-9:]).accepted()
    stop = rm.ReleaseAllocationRequest(allocation_id=told, reason=pb.STOP_REASON_PREEMPTED)
    books = books.when(stop).accepted()
    hello = rm.ConnectNodeRequest(
        node_id=A.node_id,
        session_id="s2",
        boot_id="b",
        runs=[
            rm.RunState(allocation_id=kept, job_id="kept", run=1),
            rm.RunState(allocation_id=told, job_id="told", run=1),
            rm.RunState(allocation_id="allocation-local-old", job_id="old", run=1),
            rm.RunState(allocation_id="allocation-local-done", job_id="done", run=1, ended=True),
        ],
    )
    outcome = books.when(hello)
    event = outcome.one(rm.NodeConnected)
    assert sorted(event.kept_allocation_ids) == sorted((kept, told))
    assert event.missing_allocation_ids == [missing]
    reasons = {one.job_id: one.reason for one in event.stops}
    assert reasons == {"told": pb.STOP_REASON_PREEMPTED, "old": pb.STOP_REASON_FENCED}
    lost = outcome.one(rm.AllocationReleased)
    assert (lost.allocation_id, lost.result.outcome) == (gone, pb.RUN_OUTCOME_NODE_LOST)


def test_a_lost_node_holds_its_places_until_the_margin_has_passed():
    books, _ = held(connected())
    survivor = spec(survive_disconnect=True)
    books, kept = held(books, "survivor", job=survivor)
    lost = rm.ReportNodeLostRequest(node_id=A.node_id, session_id="s1")
    books = books.when(lost).accepted()
    books.when(lost, command_id="again").then()
    tick = common_pb2.TickRequest(shard_id="local")
    books.when(tick, at_us=NOW_US + 3 * SECOND_US - 1).then()
    outcome = books.when(tick, at_us=NOW_US + 3 * SECOND_US)
    assert outcome.one(rm.AllocationReleased).result.outcome == pb.RUN_OUTCOME_NODE_LOST
    after = outcome.accepted()
    assert list(after.state.allocations) == [kept]
    state_module = after.verbs["state"]
    assert state_module.due(after.state) is None


def test_a_loss_reported_for_an_older_session_is_void():
    books = connected()
    again = rm.ConnectNodeRequest(node_id=A.node_id, session_id="s2", boot_id="b")
    books = books.when(again, command_id="c-3").accepted()
    books.when(rm.ReportNodeLostRequest(node_id=A.node_id, session_id="s1")).then()


def test_a_drain_asks_every_run_to_leave_once():
    books, allocation_id = held(connected())
    outcome = books.when(rm.DrainNodeRequest(node_id=A.node_id, reason="kernel"))
    assert outcome.one(rm.AllocationReleaseRequested).reason == pb.STOP_REASON_DRAINED
    drained = outcome.accepted()
    drained.when(rm.DrainNodeRequest(node_id=A.node_id), command_id="again").then()
    assert drained.state.allocations[allocation_id].status == rm.ALLOCATION_STATUS_RELEASING
    ready = drained.when(rm.UncordonNodeRequest(node_id=A.node_id)).accepted()
    assert ready.state.nodes[A.node_id].ready


@pytest.mark.parametrize(
    ("reading", "cordons"),
    [
        ({"xids": [79]}, True),
        ({"xids": [13, 31, 43]}, False),
        ({"ecc_uncorrectable": 1}, True),
        ({"temperature_celsius_max": 94}, False),
        ({"temperature_celsius_max": 95}, True),
        ({}, False),
    ],
)
def test_health_rules(reading: dict, cordons: bool):
    health = rm.GpuHealth(gpu_uuid="GPU-a0", **reading)
    report = rm.ReportNodeHealthRequest(node_id=A.node_id, gpus=[health])
    outcome = connected().when(report)
    if not cordons:
        outcome.then()
        return
    books = outcome.accepted()
    books.when(report, command_id="again").then()
    healthy = rm.UncordonGpuRequest(node_id=A.node_id, gpu_uuid="GPU-a0")
    assert books.when(healthy).accepted().state.nodes[A.node_id].cordoned_gpus == set()
