"""The simulated NVML answers through pynvml as a real one would."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

SCENARIOS = Path(__file__).parents[2] / "nvml"
# NVML stays loaded for the life of a process, so each scenario is read in one of its own.
READ = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from loomos.node_agent.gpu import Gpus
gpus = Gpus(Path(sys.argv[1]), Path(sys.argv[2]))
print(json.dumps([gpus.driver, [asdict(g) for g in gpus.inventory],
                  [asdict(s) for s in gpus.sample()], [asdict(s) for s in gpus.sample()]]))
"""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def read(scenario: Path, cache: Path) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", READ, str(scenario), str(cache)],
        env={**os.environ, "LOOMOS_NVML_SCENARIO": str(scenario)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)


def test_the_inventory_is_that_of_the_scenario(cache: Path) -> None:
    driver, gpus, samples, _ = read(SCENARIOS / "h100x2.scenario", cache)
    assert driver == "570.124.06"
    assert [gpu["model"] for gpu in gpus] == ["NVIDIA H100 80GB HBM3"] * 2
    assert gpus[0] | {"uuid": ""} == {
        "uuid": "",
        "model": "NVIDIA H100 80GB HBM3",
        "memory_bytes": 85520809984,
        "compute_capability": 90,
        "mig_enabled": False,
        "nvlinks": 18,
    }
    assert samples[1]["temperature_celsius"] == 30
    assert samples[1]["ecc_double_bit"] == 0


def test_a_failing_card_shows_it_and_hides_no_other(cache: Path) -> None:
    _, gpus, samples, again = read(SCENARIOS / "failing.scenario", cache)
    assert len(gpus) == 1  # the other one was lost before it could be named
    assert samples[0]["xids"] == [79]
    assert again[0]["xids"] == []  # told once
    assert samples[0]["ecc_double_bit"] == 2
    assert samples[0]["memory_used_bytes"] == gpus[0]["memory_bytes"]


def test_a_card_without_counters_says_nothing_instead_of_zero(cache: Path, tmp_path: Path) -> None:
    scenario = tmp_path / "plain"
    scenario.write_text("gpu\nuuid GPU-1\nmodel Small\nmemory_bytes 1000\nlost 100000\n")
    _, gpus, samples, _ = read(scenario, cache)
    assert (gpus[0]["nvlinks"], samples[0]["lost"]) == (0, False)
    assert samples[0]["ecc_double_bit"] is None


@pytest.mark.parametrize(
    "text",
    [
        "uuid GPU-1\n",
        "gpu\nuuid GPU-1\n",
        "gpu\nwhat 1\n",
        "gpu\nuuid G\nmemory_bytes 1\nxid 5:1 2:1",
    ],
)
def test_a_bad_scenario_is_one_clear_error(cache: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "bad").write_text(text)
    with pytest.raises(RuntimeError, match="cannot be used"):
        read(tmp_path / "bad", cache)


def test_no_gpu_and_no_driver_is_a_node_without_gpus(cache: Path) -> None:
    script = READ.replace("Path(sys.argv[1])", "None")
    done = subprocess.run(
        [sys.executable, "-c", script, "", str(cache)], capture_output=True, text=True, check=True
    )
    assert isinstance(json.loads(done.stdout)[1], list)
