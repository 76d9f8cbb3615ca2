"""The metadata `as-of`: one, of a form, and on queries of read models alone."""

import pytest

from loom.kit.call import Headers, headers, metadata_of
from loom.kit.errors import Failure
from loom.kit.routes import route_of
from loom.kit.rpc import completed
from loom.v1 import scheduler_pb2 as pb


def test_it_travels_as_it_was_given():
    for text in ("1700000000000000", "2026-11-22T10:00:00+01:00", "loomos.scheduler:0:7"):
        assert headers(metadata_of(Headers(as_of=text))).as_of == text
    assert headers([]).as_of == ""


@pytest.mark.parametrize("value", ["a b", "x" * 97, "é", "1;2", "%00"])
def test_what_has_no_form_of_a_moment_is_refused(value):
    with pytest.raises(Failure, match="metadata as-of is") as refused:
        headers([("as-of", value)])
    assert refused.value.code == "INVALID_ARGUMENT"
    with pytest.raises(Failure, match="given twice"):
        headers([("as-of", "1"), ("as-of", "2")])


def test_only_queries_of_a_read_model_take_it():
    given = Headers(as_of="1")
    assert completed(route_of(pb.ListJobsRequest.DESCRIPTOR), given).as_of == "1"
    for request in (pb.SubmitJobRequest, pb.FollowJobRequest):
        with pytest.raises(Failure, match="no query of a read model") as refused:
            completed(route_of(request.DESCRIPTOR), given)
        assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", "as_of")
