"""How the past is shown: walks as trees and graphs, comparisons as tables."""

import inspect
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loomos.cli import admin, audit, causality, costs, diff, jobs, keys, models, nodes, quotas
from loomos.cli.causality import graph, quoted, tree
from loomos.cli.diff import rows_of

LISTS = (
    admin.project_list, admin.user_list, audit.events, audit.story, causality.causes,
    causality.effects, costs.budget_get, costs.cost, costs.prices, costs.usage, jobs.job,
    jobs.jobs, jobs.queue, jobs.why, keys.key_list, models.deployments, models.model,
    models.models, nodes.gpus, nodes.nodes, quotas.quota_get, quotas.quota_list,
)  # fmt: skip


def entry(depth, event_id, causation_id="", type_name="job.submitted"):
    event = {"event_id": event_id, "causation_id": causation_id, "type": type_name, "stream": "s"}
    return {"depth": depth, "event": event}


@pytest.mark.parametrize("command", LISTS, ids=lambda command: command.__name__)
def test_every_list_and_look_takes_a_moment(command):
    assert "as_of" in inspect.signature(command).parameters
    assert "as_of=as_of" in inspect.getsource(command) or ", as_of)" in inspect.getsource(command)


def test_a_graph_leads_from_causes_to_effects():
    text = graph([entry(0, "a"), entry(1, "b", "a"), entry(0, "c", "gone"), entry(0, "d", "d")])
    assert re.findall(r'"(\w)" -> "(\w)"', text) == [("a", "b")]
    assert text.startswith("digraph causality {\n") and text.endswith("}\n")
    assert len(re.findall(r"\[label=", text)) == 4


def test_a_graph_knows_users_events_by_their_own_ids():
    told = entry(0, "a")
    told["event"]["payload"] = {"append_id": "x", "event_id": "Own-1"}
    text = graph([told, entry(1, "b", "Own-1"), entry(1, "c", "a"), entry(2, "d")])
    assert re.findall(r'"(\w)" -> "(\w)"', text) == [("a", "b"), ("a", "c")]


@given(st.text())
def test_what_an_event_says_stays_inside_its_label(text):
    inside = quoted(text)[1:-1]
    assert re.fullmatch(r'(?:[^"\\]|\\.)*', inside)
    assert inside.isprintable()


def test_a_tree_hangs_effects_under_their_causes():
    whole = tree("a", "CAUSAL_DIRECTION_EFFECTS", [entry(0, "a"), entry(1, "b"), entry(1, "c")])
    (root,) = whole.children
    assert len(root.children) == 2


def test_a_changed_row_has_a_line_a_column_and_a_new_one_a_line():
    columns = [
        {"name": "status", "before": "2", "after": "11"},
        {"name": "version", "before": "1", "after": "2"},
    ]
    row = {"service": "scheduler", "table": "jobs", "key": '{"job_id": "j"}', "columns": columns}
    changed = list(rows_of(row | {"kind": "CHANGE_KIND_CHANGED"}))
    assert changed == [
        ("scheduler.jobs", '{"job_id": "j"}', "changed", "status", "2", "11"),
        ("", "", "", "version", "1", "2"),
    ]
    columns = [
        {"name": "job_id", "before": "", "after": '"j"'},
        {"name": "name", "before": "", "after": '"one"'},
        {"name": "run", "before": "", "after": "0"},
    ]
    (added,) = rows_of(row | {"kind": "CHANGE_KIND_ADDED", "columns": columns})
    assert added[2:] == ("added", "", "", 'name="one"')


def test_a_table_is_told_from_an_id():
    assert diff.TABLE.fullmatch("job_events")
    for name in ("job-local-aaaaaaaaaaaaaaaaaaaa", "acme.vision", "sku:gpu"):
        assert not diff.TABLE.fullmatch(name)
