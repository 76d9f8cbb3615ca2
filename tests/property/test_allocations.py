"""Never oversold: whatever is asked of the books, in whatever order."""

from cluster import NOW_US, SECOND_US, node, spec
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loom.decider import Context, Rejected
from loom.v1 import common_pb2
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as pb
from loomos.resource_manager.decide import decide
from loomos.resource_manager.evolve import evolve
from loomos.resource_manager.state import State, initial

NODES = [node("a", cpus=4), node("b", cpus=4, gpus=3), node("c", cpus=2, gpus=1)]
JOBS = [f"job-local-{n}" for n in range(6)]

places = st.builds(
    lambda at, job, run, cpus, gpus: rm.Grant(
        node_id=NODES[at].node_id,
        run=rm.RunSpec(
            job_id=job, run=run, project_id="acme.vision", spec=spec(cpus=cpus, gpus=gpus)
        ),
    ),
    st.integers(0, 2),
    st.sampled_from(JOBS),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(0, 3),
)
steps = st.one_of(
    st.tuples(st.just("grant"), st.lists(places, min_size=1, max_size=4)),
    st.tuples(st.sampled_from(["start", "finish", "release"]), st.integers(0, 20)),
    st.tuples(
        st.sampled_from(["register", "connect", "lose", "cordon", "drain", "uncordon", "sick"]),
        st.integers(0, 2),
    ),
    st.tuples(st.just("tick"), st.integers(0, 5)),
)


def command(state: State, kind: str, what) -> object | None:
    """The command that a step means in this state; None where it means none."""
    match kind:
        case "grant":
            return rm.GrantAllocationsRequest(cluster_id="local", grants=what)
        case "tick":
            return common_pb2.TickRequest(shard_id="local")
        case "start" | "finish" | "release":
            if not state.allocations:
                return None
            names = sorted(state.allocations)
            held = state.allocations[names[what % len(names)]]
            name = held.allocation_id
            if kind == "release":
                reason = pb.STOP_REASON_PREEMPTED
                return rm.ReleaseAllocationRequest(allocation_id=name, reason=reason)
            if kind == "start":
                return rm.ReportAllocationStartedRequest(allocation_id=name, run=held.run)
            result = pb.RunResult(outcome=pb.RUN_OUTCOME_EXITED)
            return rm.ReportAllocationFinishedRequest(
                allocation_id=name, run=held.run, result=result
            )
        case _:
            return of_node(state, kind, NODES[what])


def of_node(state: State, kind: str, one: rm.RegisterNodeRequest) -> object:
    """A command about a node; half of its runs are still there when it connects."""
    name = one.node_id
    match kind:
        case "register":
            return one
        case "connect":
            held = sorted(state.nodes[name].allocations) if name in state.nodes else []
            runs = [
                rm.RunState(allocation_id=each, job_id="j", run=state.allocations[each].run)
                for each in held[::2]
            ]
            return rm.ConnectNodeRequest(node_id=name, session_id="s", boot_id="b", runs=runs)
        case "lose":
            return rm.ReportNodeLostRequest(node_id=name)
        case "cordon":
            return rm.CordonNodeRequest(node_id=name)
        case "drain":
            return rm.DrainNodeRequest(node_id=name)
        case "uncordon":
            return rm.UncordonNodeRequest(node_id=name)
        case _:
            sick = rm.GpuHealth(gpu_uuid=f"GPU-{one.hostname[-1]}0", xids=[79])
            return rm.ReportNodeHealthRequest(node_id=name, gpus=[sick])


def check(state: State) -> None:
    """The books add up, and nothing is given out twice."""
    uuids: set[str] = set()
    for node_id, one in state.nodes.items():
        held = list(one.allocations.values())
        assert one.used == tuple(sum(each.amounts[n] for each in held) for n in range(4))
        assert all(used <= have for used, have in zip(one.used, one.capacity, strict=True))
        named = [uuid for each in held for uuid in each.gpu_uuids]
        assert set(named) == one.held_gpus
        assert len(named) == len(set(named)) == sum(each.amounts[2] // 1000 for each in held)
        assert set(named) <= set(one.gpus)
        assert not uuids & set(named)
        uuids |= set(named)
        assert all(each.node_id == node_id for each in held)
    assert len(state.holders) == len(state.allocations)
    for job_id, name in state.holders.items():
        assert state.allocations[name].run == state.runs[job_id]


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(steps, max_size=40))
def test_nothing_is_ever_oversold(story: list):
    state, now_us = initial("local"), NOW_US
    opening = [("register", n) for n in range(3)] + [("connect", n) for n in range(3)]
    log: list = []
    for number, (kind, what) in enumerate([*opening, *story]):
        asked = command(state, kind, what)
        if asked is None:
            continue
        now_us += SECOND_US * (what if kind == "tick" else 0)
        try:
            events = decide(asked, state, Context(f"c-{number}", now_us, "service:x", "local"))
        except Rejected:
            continue
        for event in events:
            evolve(state, event)
            log.append(event)
            check(state)
    again = initial("local")
    for event in log:
        evolve(again, event)
    assert again == state
