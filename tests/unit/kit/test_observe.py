"""Logs without secrets; traces that pass through."""

import io
import json
import logging
import sys
from pathlib import Path

import pytest
import structlog

from loom.kit import observe
from loom.kit.config import Settings

TOKEN = "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJ1c2VyIn0.c2lnbmF0dXJl"
KEY = "lk_key-acme-abcdefghijklmnopqrst_" + "s" * 43


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What the process writes to stdout."""
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    observe.start(Settings.load("scheduler", {"LOOMOS_HOME": str(tmp_path)}))
    yield lambda: [json.loads(line) for line in out.getvalue().splitlines()]
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def test_a_line_is_json_with_service_and_correlation(lines) -> None:
    with observe.correlated("story-1"):
        observe.logger("x").info("job placed", job_id="job-1")
    observe.logger("x").debug("unheard")
    (line,) = lines()
    assert line["event"] == "job placed"
    assert (line["service"], line["correlation_id"]) == ("scheduler", "story-1")
    assert (line["level"], line["job_id"]) == ("info", "job-1")


def test_secrets_never_leave(lines) -> None:
    log = observe.logger("x")
    log.info("login", password="hunter2", api_key=KEY, nested={"Authorization": "x", "a": [TOKEN]})
    log.info(f"got {KEY} and Bearer abcdef and postgresql://u:hunter2@host/db")
    try:
        raise ValueError(f"token {TOKEN}")
    except ValueError:
        log.exception("failed")
    logging.getLogger("other").warning("saw %s", KEY)
    text = json.dumps(lines())
    assert "hunter2" not in text
    assert "s" * 43 not in text
    assert TOKEN not in text
    assert "abcdef and" not in text
    assert len(lines()) == 4


def test_a_trace_passes_through_and_one_begins_where_none_is() -> None:
    given = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    with observe.span("x", given):
        assert observe.traceparent() == given
        with observe.span("inner"):
            assert observe.traceparent() == given
    assert observe.traceparent() == ""
    for bad in ("", "nonsense", "00-" + "0" * 32 + "-" + "b" * 16 + "-01"):
        with observe.span("x", bad):
            assert observe.TRACEPARENT.fullmatch(observe.traceparent())
            assert observe.traceparent() != bad
