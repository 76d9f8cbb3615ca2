"""Which statements may change places, and which may not."""

import pytest

from loom.decider import Statement
from loom.kit.grouping import Table, plan, shape_of

TABLES = {
    "jobs": Table(("job_id", "node_id", "status"), True, {"job_id": str}),
    "story": Table(("job_id", "version", "said"), True, {"job_id": str, "version": int}),
    "users": Table(("user_id", "name"), True, {}),
    "guarded": Table(("id",), False, {"id": str}),
}
JOB = "INSERT INTO jobs VALUES (%s, '', %s)"
MOVE = "UPDATE jobs SET node_id = %s WHERE job_id = %s"
NODE = "UPDATE jobs SET status = 0 WHERE node_id = %s"
STORY = "INSERT INTO story (version, job_id, said) VALUES (%s, %s, %s)"
USER = "INSERT INTO users VALUES (%s, %s)"
GONE = "DELETE FROM users WHERE user_id = %s"
SUMMED = "UPDATE users SET name = (SELECT count(*) FROM jobs)"
GUARDED = "INSERT INTO guarded VALUES (%s)"


def planned(*told: tuple) -> list[tuple[str, int]]:
    """The groups of statements given as (text, parameter, …), each with its number of rows."""
    groups = plan([Statement(text, tuple(row)) for text, *row in told], TABLES)
    return [(group.sql, len(group.rows)) for group in groups]


def test_rows_told_apart_by_their_key_and_tables_change_places():
    told = []
    for job in ("a", "b", "c"):
        told += [(JOB, job, 1), (STORY, 1, job, "x"), (MOVE, "n", job)]
    assert planned(*told) == [(JOB, 3), (STORY, 3), (MOVE, 3)]


def test_what_touches_one_row_keeps_its_order():
    told = [(JOB, "a", 1), (MOVE, "n", "a"), (JOB, "a", 2), (MOVE, "m", "a")]
    assert planned(*told) == [(JOB, 1), (MOVE, 1), (JOB, 1), (MOVE, 1)]


def test_a_statement_on_many_rows_is_passed_by_none_of_its_table():
    told = [(JOB, "a", 1), (NODE, "n"), (JOB, "b", 1), (STORY, 1, "a", "x"), (NODE, "n")]
    assert planned(*told) == [(JOB, 1), (NODE, 1), (JOB, 1), (STORY, 1), (NODE, 1)]


def test_a_table_with_another_unique_column_keeps_its_order():
    told = [(USER, "a", "x"), (GONE, "a"), (USER, "b", "x"), (JOB, "a", 1), (JOB, "b", 1)]
    assert planned(*told) == [(USER, 1), (GONE, 1), (USER, 1), (JOB, 2)]


@pytest.mark.parametrize("fence", [(SUMMED,), (GUARDED, "x"), ("TRUNCATE jobs",)])
def test_nothing_passes_what_may_touch_anything(fence):
    told = [(JOB, "a", 1), fence, (JOB, "b", 1)]
    assert planned(*told) == [(JOB, 1), (fence[0], 1), (JOB, 1)]


def test_a_key_of_another_type_proves_no_row():
    told = [(JOB, "1", 1), (MOVE, "n", "1"), (JOB, 1, 1)]
    assert planned(*told) == [(JOB, 1), (MOVE, 1), (JOB, 1)]


@pytest.mark.parametrize(
    "text",
    [
        "INSERT INTO jobs SELECT * FROM story WHERE job_id = %s",
        "UPDATE jobs AS j SET status = %s",
        "UPDATE jobs SET status = nextval(%s) WHERE job_id = %s",
        "UPDATE jobs SET status = 1 FROM story WHERE job_id = %s",
        'UPDATE "jobs" SET status = %s',
        "INSERT INTO other.jobs VALUES (%s)",
        "INSERT INTO jobs VALUES ('%s')",
        "INSERT INTO jobs VALUES (%s) -- ON CONFLICT",
        "INSERT INTO jobs VALUES (%s) RETURNING job_id",
        "WITH a AS (DELETE FROM story) INSERT INTO jobs VALUES (%s)",
        "INSERT INTO jobs VALUES (%s); DELETE FROM story",
    ],
)
def test_a_text_that_may_touch_more_proves_no_table(text):
    assert shape_of(text).table == ""


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("UPDATE jobs SET job_id = %s WHERE job_id = %s", ("b", "a")),
        ("UPDATE jobs SET status = 1 WHERE job_id = %s OR status = %s", ("a", 1)),
        ("UPDATE jobs SET status = 1 WHERE NOT job_id = %s", ("a",)),
        ("DELETE FROM jobs WHERE job_id < %s", ("a",)),
        ("INSERT INTO jobs VALUES (coalesce(%s, 'b'))", ("a",)),
        ("INSERT INTO jobs VALUES (%s) ON CONFLICT (node_id) DO NOTHING", ("a",)),
        ("INSERT INTO jobs VALUES (%s) ON CONFLICT (job_id) DO UPDATE SET job_id = 'b'", ("a",)),
        ("DELETE FROM story WHERE job_id = %s", ("a",)),
    ],
)
def test_a_text_that_may_touch_another_row_lets_nothing_pass(text, rows):
    table = shape_of(text).table
    other = (JOB, "z", 1) if table == "jobs" else (STORY, 1, "z", "x")
    assert planned(other, (text, *rows), other) == [(other[0], 1), (text, 1), (other[0], 1)]
