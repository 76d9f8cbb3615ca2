"""The marketplace's rules: prices, usage recorded once, budgets."""

from tests.given import NOW_US, given

import loomos.marketplace
from loom.decider import Code
from loom.v1 import common_pb2
from loom.v1 import marketplace_pb2 as pb
from loom.v1 import resource_manager_pb2 as rm
from loom.v1 import scheduler_pb2 as scheduler
from loomos.marketplace.prices import LIST, cost_lines, total
from loomos.marketplace.state import due

SECOND = 1_000_000
GPU = "GPU-1"
RESOURCES = common_pb2.Resources(cpu_milli=2000, memory_bytes=4 << 30, gpu_milli=1000)
NODE = rm.NodeRegistered(node_id="node-1", gpus=[rm.Gpu(uuid=GPU, model="NVIDIA L4")])
# 2 cores, 4 GiB and an L4 for an hour.
HOUR = 2 * LIST["cpu-core"] + 4 * LIST["memory-gib"] + LIST["gpu:NVIDIA L4"]


def granted(budget: int = 0, project: str = "acme.vision", allocation: str = "alloc-1"):
    spec = scheduler.JobSpec(resources=RESOURCES, budget_micro_dollars=budget)
    run = rm.RunSpec(job_id="job-1", run=1, project_id=project, spec=spec)
    return rm.AllocationGranted(allocation_id=allocation, run=run, gpu_uuids=[GPU])


def started(allocation: str = "alloc-1"):
    return rm.AllocationStarted(allocation_id=allocation, at_us=NOW_US)


def released(seconds: int = 3600, allocation: str = "alloc-1"):
    return rm.AllocationReleased(allocation_id=allocation, at_us=NOW_US + seconds * SECOND)


def record(allocation: str = "alloc-1"):
    return pb.RecordUsageRequest(allocation_id=allocation, organisation_id="acme")


def account(*events):
    return given(loomos.marketplace, NODE, *events, shard="acme")


def test_a_run_costs_what_it_held_for_as_long_as_it_ran():
    outcome = account(granted(), started(), released()).when(record())
    (usage,) = outcome.found
    assert usage.micro_dollars == HOUR
    assert [line.sku for line in usage.lines] == ["cpu-core", "gpu:NVIDIA L4", "memory-gib"]
    assert total(list(usage.lines)) == usage.micro_dollars


def test_usage_is_recorded_once():
    (usage,) = account(granted(), started(), released()).when(record()).found
    assert account(granted(), started(), released(), usage).when(record()).found == []


def test_a_run_that_has_not_ended_is_not_recorded():
    outcome = account(granted(), started()).when(record())
    assert outcome.found.code == Code.FAILED_PRECONDITION


def test_another_organisations_run_is_not_metered():
    assert account(granted(project="other.vision")).state.meters == {}


def test_an_agreed_price_wins_over_the_list():
    price = pb.PricePublished(price_id="p", sku="gpu:NVIDIA L4", micro_dollars_per_hour=1)
    (usage,) = account(price, granted(), started(), released()).when(record()).found
    assert usage.micro_dollars == HOUR - LIST["gpu:NVIDIA L4"] + 1


def test_an_unknown_gpu_is_charged_as_the_dearest():
    (line,) = cost_lines(common_pb2.Resources(), ["NVIDIA X9"], 3600, {})
    assert line.micro_dollars == max(LIST[sku] for sku in LIST if sku.startswith("gpu:"))


def test_a_job_that_used_up_its_budget_is_told_at_the_right_moment():
    running = account(granted(budget=HOUR // 2), started())
    moment = due(running.state)
    assert NOW_US + 1800 * SECOND <= moment <= NOW_US + 1802 * SECOND
    assert running.when(common_pb2.TickRequest(shard_id="acme"), at_us=moment - 2).found == []
    (told,) = running.when(common_pb2.TickRequest(shard_id="acme"), at_us=moment).found
    assert isinstance(told, pb.BudgetExhausted)
    assert told.spent_micro_dollars >= HOUR // 2
    assert due(account(granted(budget=HOUR // 2), started(), told).state) is None


def test_a_monthly_budget_tells_its_highest_threshold_once():
    budget = pb.BudgetSet(
        budget_id="b", project_id="acme.vision", monthly_micro_dollars=HOUR * 10 // 9
    )
    history = [budget, granted(), started(), released()]
    usage, told = account(*history).when(record()).found
    assert told.percent == 80
    again = [granted(allocation="alloc-2"), started("alloc-2"), released(1, "alloc-2")]
    (only,) = account(*history, usage, told, *again).when(record("alloc-2")).found
    assert isinstance(only, pb.UsageRecorded)


def test_the_same_price_again_changes_nothing():
    price = pb.PricePublished(price_id="p", sku="cpu-core", micro_dollars_per_hour=1)
    command = pb.PublishPriceRequest(
        organisation_id="acme", sku="cpu-core", micro_dollars_per_hour=1
    )
    assert account(price).when(command).found == []
