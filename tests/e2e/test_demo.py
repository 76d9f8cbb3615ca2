"""The whole story of `loomos demo`, as a newcomer runs it: every step held, and nothing runs on."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
STEPS = {1: 4, 2: 3, 3: 3, 4: 5, 5: 6, 6: 7, 7: 4, 8: 3, 9: 8}
"""How many things each step of the story shows."""
UNPROVED = ("would cost", "audit verify", "rebuilt from the log")
"""What asks and compares changes nothing, so that no event stands for it."""


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    home = tmp_path_factory.mktemp("demo") / "home"
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LOOMOS_")}
    done = subprocess.run(
        [sys.executable, "-m", "loomos.cli.main", "demo", "--json", "--home", str(home)],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    broken = [line for line in lines if line.get("held") is False]
    assert (done.returncode, broken) == (0, []), done.stderr
    return lines


def test_every_step_held_with_its_event(told: list[dict]) -> None:
    steps = [line for line in told if "step" in line]
    counts = {number: sum(one["step"] == number for one in steps) for number in STEPS}
    assert counts == STEPS
    for one in steps:
        assert one.get("event_id") or any(word in one["told"] for word in UNPROVED), one


def test_nothing_runs_on_and_the_data_stay(told: list[dict]) -> None:
    (end,) = [line for line in told if line.get("ended")]
    home = Path(end["home"])
    assert (home / "kafka" / "data").is_dir()
    assert not (home / "state.json").exists()
    left = [
        one.info["cmdline"]
        for one in psutil.process_iter(["cmdline"])
        if any(str(home) in part for part in one.info["cmdline"] or ())
    ]
    assert left == []
    assert len(end["try"]) == 3
