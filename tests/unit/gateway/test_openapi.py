"""The OpenAPI document says what the contract says."""

from typing import Any

import probe

from loomos.gateway.openapi import comments_in, document
from loomos.gateway.transcode import bindings

COMMENTS = comments_in([probe.commented()])
API: dict[str, Any] = document(
    bindings([probe.contract().DESCRIPTOR]), COMMENTS, "https://127.0.0.1:1"
)


def test_comments_are_found_by_full_name() -> None:
    assert COMMENTS["loom.probe.v1.Probes.CreateProbe"] == "Makes a probe."
    assert COMMENTS["loom.probe.v1.Limits.share"] == "A share of something; no rule of its own."
    assert COMMENTS["loom.probe.v1.Mood.MOOD_WILD"] == "Not well."


def test_operations_carry_words_status_and_security() -> None:
    create = API["paths"]["/api/v1/probes"]["post"]
    assert create["summary"] == "Makes a probe."
    assert "201" in create["responses"]
    assert (
        "content" not in API["paths"]["/api/v1/probes/{probe_id}:end"]["post"]["responses"]["204"]
    )
    assert API["paths"]["/api/v1/greeting"]["get"]["security"] == []
    assert "/api/v1/probes:sweep" not in API["paths"]
    lines = API["paths"]["/api/v1/probes/{probe_id}/lines"]["get"]["responses"]["200"]
    assert set(lines["content"]) == {"application/x-ndjson", "text/event-stream"}


def test_fields_carry_their_rules() -> None:
    fields = API["components"]["schemas"]["loom.probe.v1.CreateProbeRequest"]["properties"]
    assert fields["name"]["pattern"].startswith("^[a-z0-9]")
    assert fields["password"] == {
        "description": "A secret word.",
        "type": "string",
        "maxLength": 8,
        "format": "password",
    }
    assert fields["mood"]["enum"] == ["MOOD_UNSPECIFIED", "MOOD_CALM", "MOOD_WILD"]
    assert fields["numbers"]["maxItems"] == 4
    limits = API["components"]["schemas"]["loom.probe.v1.Limits"]["properties"]
    assert limits["memory_bytes"]["maximum"] == 1125899906842624


def test_every_reference_is_defined_and_operation_ids_differ() -> None:
    text = str(API)
    for name in {part.split("'")[0] for part in text.split("#/components/schemas/")[1:]}:
        assert name in API["components"]["schemas"]
    ids = [one["operationId"] for path in API["paths"].values() for one in path.values()]
    assert len(ids) == len(set(ids))
    queries = API["paths"]["/api/v1/probes"]["get"]["parameters"]
    assert {"limits.memory_bytes", "limits.inner.share", "labels"} <= {q["name"] for q in queries}
