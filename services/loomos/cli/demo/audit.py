"""Chapter 9: the whole story as a tree, proof that nobody changed it, and the past once more."""

import base64
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loom.v1 import scheduler_pb2
from loomos.cli.demo import nodes
from loomos.cli.demo.people import GPUS_MILLI_MAX, JOBS_MAX, ORGANISATION
from loomos.cli.demo.stage import Stage, require
from loomos.cli.demo.tampering import FORGERIES

__all__ = ["play"]

STEP = 9
TOPIC = "loomos.scheduler"
CLEAN = "clean"
FREQUENT = (".progressed", ".checkpointed")
RUNNING = scheduler_pb2.JOB_STATUS_RUNNING


def play(stage: Stage) -> None:
    """Story, proof, forgeries, time travel, rebuild."""
    story(stage)
    intact(stage)
    forgeries(stage)
    replayed(stage)
    rebuilt(stage)


def story(stage: Stage) -> None:
    """Every event of the job's story stands behind the one that caused it."""
    correlation_id = stage.ids["training-story"]
    path = f"/api/v1/organisations/platform/audit/stories/{correlation_id}"
    entries = stage.admin.call("GET", path)["entries"]
    root = entries[0]["event"]
    require(root["type"] == "job.submitted", f"the story begins with {root['type']}")
    kinds = {one["event"]["type"] for one in entries}
    wanted = {"allocation.granted", "job.preempted", "job.finished", "usage.recorded"}
    require(wanted <= kinds, f"the story lacks {sorted(wanted - kinds)}")
    roots = [one["event"]["type"] for one in entries if one["depth"] == 0]
    require(roots == ["job.submitted"], f"these events have no cause: {roots}")
    topics = {one["event"]["position"]["topic"] for one in entries}
    told = f"story {correlation_id}: {len(entries)} events in {len(topics)} topics, one root"
    stage.held(STEP, f"{told}; without progress and checkpoints:", root, tree=branches(entries))


def branches(entries: list[dict[str, Any]]) -> list[str]:
    """The tree as indented lines; what is left out leaves its effects behind its cause."""
    lines: list[str] = []
    above: list[int] = []
    """The depths of the shown events between the root and here."""
    for entry in entries:
        kind, depth = entry["event"]["type"], entry["depth"]
        if kind.endswith(FREQUENT) or kind.startswith("checkpoint."):
            continue
        while above and above[-1] >= depth:
            above.pop()
        lines.append(f"{'  ' * len(above)}{kind}")
        above.append(depth)
    return lines


def intact(stage: Stage) -> None:
    """Every record of every partition is the one that was signed for."""
    done = stage.loomos("audit", "verify", "--json")
    reports = reports_in(done.stdout)
    require(done.returncode == 0 and bool(reports), f"{done.stdout} {done.stderr}")
    records = sum(one["records"] for one in reports)
    partition = placed(stage)[0]
    path = f"/api/v1/organisations/platform/audit/checkpoints/{TOPIC}/{partition}"
    signed = stage.admin.call("GET", path)
    root = base64.b64decode(signed["root"]).hex()
    told = (
        f"`loomos audit verify`: {records} records of {len(reports)} partitions are as signed; "
        f"{TOPIC}-{partition} has {signed['size']} leaves under root {root[:16]}…"
    )
    stage.held(STEP, told, checkpoint=signed["checkpoint"])


def forgeries(stage: Stage) -> None:
    """Copies of the files, each forged in another way: what was done is found and named."""
    event = stage.event("job.started", stage.ids["training"])
    partition, target = placed(stage)
    place = stage.home / "demo" / "forgeries"
    shutil.rmtree(place, ignore_errors=True)
    # Trees first: what is signed by then stands in the files.
    tree = f"{TOPIC}-{partition}"
    shutil.copytree(stage.home / "trees" / tree, place / "trees" / tree)
    forged = {CLEAN: (target, target)}
    for name in (CLEAN, *FORGERIES):
        (place / name / tree).mkdir(parents=True)
        for path in sorted((stage.home / "kafka" / "data" / tree).glob("*.log")):
            shutil.copyfile(path, place / name / tree / path.name)
    for name, forge in FORGERIES.items():
        forged[name] = forge(next((place / name / tree).glob("*.log")), target)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda name: faults(stage, place, name), forged))
    for (name, (first, last)), seen in zip(forged.items(), found, strict=True):
        named = [one for one in seen if first <= one["first_offset"] <= last]
        if name == CLEAN:
            require(not seen, f"the untouched copy has faults: {seen}")
            continue
        require(bool(named), f"{name} in {tree} {first} to {last} was not named: {seen}")
        where = f"{tree} offset {named[0]['first_offset']}"
        stage.held(STEP, f"found: {name}: {where}: {named[0]['kind']}", event)
    shutil.rmtree(place)


def placed(stage: Stage) -> tuple[int, int]:
    """Partition and offset of the event that tells of the job's start."""
    position = stage.event("job.started", stage.ids["training"])["position"]
    return int(position.get("partition", 0)), int(position["offset"])


def faults(stage: Stage, place: Path, name: str) -> list[dict[str, Any]]:
    """What verification finds in a copy, without a broker."""
    words = ("audit", "verify", "--json", "--log-dir", str(place / name))
    done = stage.loomos(*words, "--tiles", str(place / "trees"))
    (report,) = reports_in(done.stdout)
    return report["faults"]


def reports_in(text: str) -> list[dict[str, Any]]:
    """One report a line."""
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def replayed(stage: Stage) -> None:
    """The state at step 4, folded from the log up to the event that told it."""
    done = stage.loomos("replay", "--to", stage.ids["running"], "--json")
    require(done.returncode == 0, f"`loomos replay` failed: {done.stderr.strip()}")
    then = {(one["service"], one["shard"]): one["state"] for one in reports_in(done.stdout)}
    training, node_id = stage.ids["training"], stage.agents[nodes.FIRST].node_id
    scheduler = then["scheduler", "local"]
    job = scheduler["jobs"][training]
    require((job["status"], job["run"]) == (RUNNING, 1), f"the job was {job}")
    require(job["node_id"] == node_id, f"the job ran on {job['node_id']}")
    require(stage.ids["urgent"] not in scheduler["jobs"], "the urgent job was there already")
    node = then["resource-manager", "local"]["nodes"][node_id]
    require(list(node["allocations"]) == [stage.ids["allocation"]], f"the node was {node}")
    quota = then["security", ORGANISATION]["quotas"][stage.ids["researcher"]]
    limits = sorted(int(one["limit"]) for one in quota)
    require(limits == sorted((JOBS_MAX, GPUS_MILLI_MAX)), f"the quota was {quota}")
    told = (
        f"`loomos replay --to {stage.ids['running']}`: the job was RUNNING as run 1, "
        f"{nodes.FIRST} held {stage.ids['allocation']}, the quota was {limits}"
    )
    stage.held(STEP, told, {"event_id": stage.ids["running"], "type": "job.started"})


def rebuilt(stage: Stage) -> None:
    """All read models, made anew from the log, are what they were."""
    done = stage.loomos("rebuild", "--json")
    tables = reports_in(done.stdout)
    require(done.returncode == 0 and bool(tables), f"`loomos rebuild`: {done.stderr.strip()}")
    require(all(one["same"] for one in tables), f"these differ: {tables}")
    services = {one["service"] for one in tables}
    rows = sum(one["rows"] for one in tables)
    told = f"{rows} rows in {len(tables)} tables of {len(services)} services give the same digests"
    digests = {f"{one['service']}.{one['table']}": one["rebuilt"] for one in tables}
    stage.held(STEP, f"rebuilt from the log, {told}", digests=digests)
