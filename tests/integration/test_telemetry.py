"""GPU telemetry from NVML through Kafka and a faust window to a health report."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from loom.kit.config import Settings
from loom.log.publisher import Publisher
from loomos.telemetry.main import application

SCENARIOS = Path(__file__).parents[1] / "nvml"
# NVML stays loaded for the life of a process, so each scenario is read in one of its own.
SAMPLE = """
import json, sys
from dataclasses import asdict
from pathlib import Path
from loomos.node_agent.gpu import Gpus
print(json.dumps([asdict(s) for s in Gpus(Path(sys.argv[1]), Path(sys.argv[2])).sample()]))
"""


def samples(scenario: str, cache: Path) -> list[dict[str, object]]:
    """What NVML says of this scenario now."""
    path = str(SCENARIOS / f"{scenario}.scenario")
    environ = {**os.environ, "LOOMOS_NVML_SCENARIO": path}
    done = subprocess.run(
        [sys.executable, "-c", SAMPLE, path, str(cache)],
        env=environ,
        check=True,
        capture_output=True,
    )
    return json.loads(done.stdout)


async def test_a_failing_gpu_is_reported_and_a_healthy_one_is_not(
    fresh_log: object, settings: Callable[..., Settings], tmp_path: Path
) -> None:
    reports = asyncio.Queue(16)
    windows = replace(settings("telemetry"), home=tmp_path)
    app = application(windows, reports)
    publisher = Publisher(windows, "test-telemetry")
    await app.start()
    await publisher.start()
    try:
        for scenario in ("h100x2", "failing"):
            for sample in await asyncio.to_thread(samples, scenario, tmp_path):
                record = {"node_id": f"node-{scenario}", "at_us": time.time_ns() // 1000, **sample}
                publisher.publish("node", json.dumps(record).encode())
        publisher.publish("node", b"garbage")
        async with asyncio.timeout(60):
            report = await reports.get()
    finally:
        with contextlib.suppress(Exception):
            await publisher.stop()
        await app.stop()
    assert report.node_id == "node-failing"
    (gpu,) = report.gpus
    assert gpu.gpu_uuid == "GPU-fa111111-0000-4000-8000-000000000001"
    assert list(gpu.xids) == [79]
    assert gpu.temperature_celsius_max == 97
    assert reports.empty()
