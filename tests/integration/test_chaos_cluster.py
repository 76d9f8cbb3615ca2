"""Each class of faults of `loomos chaos cluster` once, against three real brokers."""

import pytest
import pytest_asyncio

from loomos.cli.chaos.cluster import cluster
from loomos.cli.chaos.cluster_faults import FAULTS

SEED = 20261122

pytestmark = [
    pytest.mark.bus,
    pytest.mark.db,
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three_brokers(tmp_path_factory):
    async with cluster(tmp_path_factory.mktemp("cluster"), SEED, print) as made:
        yield made


@pytest.mark.parametrize("name", FAULTS)
async def test_a_fault_of_a_cluster_breaks_no_promise(three_brokers, name):
    async with three_brokers.loaded() as load:
        assert await FAULTS[name](three_brokers, load)
    assert load.answered
