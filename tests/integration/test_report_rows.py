"""Rows of reports on a real index: users' lineage, and a subject with more events than a part."""

import types
from typing import Any

import pytest
from tests.searching import SCHEMA, appended, put

from loom.decider import Code, Rejected
from loom.store import Store
from loomos.loomdb.query import lineage as lineages
from loomos.loomdb.query import report

TOLD = (
    ("data.ingestion.complete", {"dataset_id": "corpus", "records": 5}),
    ("model.training.start", {"dataset_id": "corpus", "model_name": "bert", "job_id": "run-9"}),
    ("model.training.checkpoint", {"job_id": "run-9", "epoch": 1, "step": 2}),
    ("compliance.model.lineage", {"dataset_ids": ["old", "corpus"], "model_name": "bert"}),
    ("model.deployment.complete", {"model_name": "bert", "environment": "production"}),
    ("model.training.start", {"dataset_id": "other", "model_name": "gpt"}),
    ("security.access.granted", {"user_id": "u", "dataset_id": "corpus"}),
)


@pytest.fixture
async def db(fresh_database, settings):
    store = Store(settings("loomdb").postgres, "loomdb")
    await store.open()
    await store.prepare(SCHEMA)
    async with store.connection() as connection:
        for at, (kind, payload) in enumerate(TOLD):
            await put(connection, appended(at, payload, type=kind))
        for at in range(10, 13):
            request = appended(at, {"model_name": "bert"}, type="model.inference.request")
            await put(connection, request)
        await put(connection, appended(20, {"dataset_id": "corpus"}, "other", type=TOLD[0][0]))
        yield connection
    await store.close()


def cut(last: int = 99) -> list[Any]:
    return [types.SimpleNamespace(topic="loomos.data", partition=0, last_offset=last)]


def told(sections) -> dict[str, list[int]]:
    return {part.title: [row.offset for row in part.rows] for part in sections if part.rows}


@pytest.mark.parametrize("thing", ["corpus", "bert", "run-9"])
async def test_lineage_follows_what_users_told_to_the_inferences(db, monkeypatch, thing):
    monkeypatch.setattr(lineages, "INFERENCES_SHOWN", 2)
    sections, summary = await lineages.lineage(db, "acme", cut(), thing)
    found = told(sections)
    assert found["Deployments and endpoints that serve"] == [4]
    assert found["Models"] == [1, 2, 3]
    assert found.get("Datasets and jobs", []) == ([0] if thing == "corpus" else [])
    assert found["Inferences"] == [10, 11]
    assert dict(summary)["inferences"] == "3, of which the first are shown"
    early, _ = await lineages.lineage(db, "acme", cut(1), thing)
    offsets = sorted(offset for part in told(early).values() for offset in part)
    assert offsets == ([0, 1] if thing == "corpus" else [1])


async def test_a_subject_with_many_events_comes_in_parts(db, monkeypatch):
    async def opened(row):
        return row["payload"]

    async def part(number: int):
        return await report.subject(db, "acme", cut(), "bert", opened, number)

    monkeypatch.setattr(report, "PART_ROWS", 4)
    parts = [await part(number) for number in (1, 2)]
    assert [count for _, count in parts] == [2, 2]
    offsets = [list(told(sections).values()) for (sections, _), _ in parts]
    assert offsets == [[[1, 3, 4, 10]], [[11, 12]]]
    assert [summary[0] for (_, summary), _ in parts] == [
        ("part", "1 of 2: events 1 to 4 of 6"),
        ("part", "2 of 2: events 5 to 6 of 6"),
    ]
    assert ("events of type model.inference.request", "3") in parts[0][0][1]
    with pytest.raises(Rejected, match="there are 2") as refused:
        await part(3)
    assert (refused.value.code, refused.value.field) == (Code.INVALID_ARGUMENT, "part")
    monkeypatch.undo()
    (_, summary), count = await part(1)
    assert count == 1
    assert "part" not in dict(summary)
