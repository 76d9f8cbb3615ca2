"""One failure, two faces."""

import grpc
import pytest

from loom.decider import Code, Rejected
from loom.kit.errors import (
    HTTP_STATUS,
    WRONG_OWNER,
    Failure,
    Violation,
    failure_of,
    from_rpc,
    problem,
    status_of,
    trailers_of,
)


def travelled(failure: Failure) -> Failure:
    """The failure as the peer sees it."""
    return from_rpc(
        grpc.aio.AioRpcError(
            grpc.StatusCode[failure.code],
            grpc.aio.Metadata(),
            grpc.aio.Metadata(*trailers_of(failure)),
            failure.message,
        )
    )


def test_every_grpc_status_has_an_http_status() -> None:
    assert set(HTTP_STATUS) == {code.name for code in grpc.StatusCode} - {"OK"}


def test_a_failure_travels_whole() -> None:
    failure = Failure(
        "FAILED_PRECONDITION",
        "not the owner",
        "shard",
        reason=WRONG_OWNER,
        details={"address": "127.0.0.1:1"},
    )
    seen = travelled(failure)
    assert (seen.code, seen.message, seen.field) == (failure.code, failure.message, "shard")
    assert (seen.reason, seen.details) == (WRONG_OWNER, {"address": "127.0.0.1:1"})


def test_what_travels_fits_into_trailers() -> None:
    many = [Violation("f" * 500, "d" * 5000, "rule") for _ in range(100)]
    failure = Failure("INVALID_ARGUMENT", "m" * 100_000, violations=many)
    assert len(failure.message) <= 1000
    assert status_of(failure).ByteSize() < 8000


@pytest.mark.parametrize(
    ("error", "code", "http"),
    [
        (Rejected(Code.NOT_FOUND, "no job", "job_id"), "NOT_FOUND", 404),
        (Rejected(Code.RESOURCE_EXHAUSTED, "quota"), "RESOURCE_EXHAUSTED", 429),
        (Rejected("NO_SUCH_CODE", "odd"), "UNKNOWN", 500),
        (TimeoutError(), "DEADLINE_EXCEEDED", 504),
        (KeyError("secret"), "INTERNAL", 500),
    ],
)
def test_errors_become_failures(error: Exception, code: str, http: int) -> None:
    failure = failure_of(error, "story-1")
    assert (failure.code, failure.http_status) == (code, http)


def test_the_unforeseen_says_nothing_but_where_to_look() -> None:
    told = problem(failure_of(KeyError("/srv/secret.py"), "story-1"), "story-1")
    assert "secret" not in str(told)
    assert "story-1" in told["detail"]
    assert told["correlation_id"] == "story-1"


def test_a_problem_names_every_field() -> None:
    failure = Failure(
        "INVALID_ARGUMENT", "two", violations=[Violation("a.b", "bad", "r"), Violation("c", "bad")]
    )
    told = problem(failure, "")
    assert told["status"] == 400
    assert told["field"] == "a.b"
    assert [one["field"] for one in told["fields"]] == ["a.b", "c"]
