"""The moment as of which REST answers: on every query, refused where it means nothing."""

from typing import Any

import pytest

from loom.catalogue import contracts
from loom.kit.errors import Failure
from loomos.gateway.openapi import document
from loomos.gateway.rest import moment_in
from loomos.gateway.transcode import bindings

BINDINGS = bindings(contracts())
BY_METHOD = {binding.route.method: binding for binding in BINDINGS}
API: dict[str, Any] = document(BINDINGS, {}, "https://127.0.0.1:1")
WITH_RECORD = ("GetEvent", "ListEvents", "GetStory", "WalkCauses")


def test_every_query_has_it_in_the_document() -> None:
    operations = {
        one["operationId"]: one for path in API["paths"].values() for one in path.values()
    }
    for binding in BINDINGS:
        route = binding.route
        if (route.query and not route.streams_out) or route.method in WITH_RECORD:
            names = [one["name"] for one in operations[route.method]["parameters"]]
            assert names.count("as_of") == 1, route.path


def test_it_is_taken_from_a_query_and_from_nothing_else() -> None:
    given = [("project_id", "acme.vision"), ("as_of", "2026-11-22T10:00:00Z")]
    assert moment_in(given, BY_METHOD["ListJobs"]) == (given[1][1], given[:1])
    assert moment_in(given[:1], BY_METHOD["ListJobs"]) == ("", given[:1])
    # A read that leaves a record has it as a field, a command has it not at all.
    assert moment_in(given, BY_METHOD["ListEvents"]) == ("", given)
    assert moment_in(given, BY_METHOD["SubmitJob"]) == ("", given)


@pytest.mark.parametrize("values", [["a b"], ["x" * 97], ["1", "2"], [""], ["é"]])
def test_a_moment_of_no_form_is_refused_by_name(values: list[str]) -> None:
    with pytest.raises(Failure, match="as_of is") as refused:
        moment_in([("as_of", value) for value in values], BY_METHOD["ListJobs"])
    assert (refused.value.code, refused.value.field) == ("INVALID_ARGUMENT", "as_of")


def test_what_services_ask_each_other_has_no_path() -> None:
    assert not {"GetMoment", "ListChanges"} & set(BY_METHOD)
