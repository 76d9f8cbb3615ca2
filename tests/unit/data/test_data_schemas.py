"""Schemas: which are admitted, which follow which, and what is read of older payloads."""

import copy
import json

import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from tests.given import Given, given

import loomos.data
from loom import payload
from loom.catalogue import events
from loom.decider import Code, Rejected
from loom.v1 import data_pb2 as pb
from loomos.data.catalogue import types
from loomos.data.compatible import lifted, unreadable
from loomos.data.form import compiled

SAMPLE = {
    "type": "object",
    "required": ["id"],
    "properties": {
        "id": {"type": "string", "maxLength": 10},
        "weight": {"type": "number", "minimum": 0},
        "place": {"type": "object", "properties": {"lab": {"type": "string"}}},
    },
}
SEEDS_START = {
    "model_name": "healthcare_bert_v3",
    "model_architecture": "transformer",
    "dataset_id": "healthcare_corpus_2024",
    "dataset_size_records": 2_500_000,
    "dataset_size_gb": 47.3,
    "hyperparameters": {"learning_rate": 2e-5, "batch_size": 32, "optimizer": "adamw"},
    "hardware_config": {
        "node_count": 4,
        "gpu_per_node": 8,
        "gpu_type": "A100",
        "total_gpu_memory_gb": 320,
        "interconnect": "nvlink",
        "storage_type": "nvme_ssd",
        "estimated_cost_per_hour": 45.60,
    },
    "compliance_metadata": {
        "data_retention_years": 10,
        "phi_data_present": True,
        "consent_forms_verified": True,
        "irb_approval_number": "IRB-2024-001",
    },
    "experiment_config": {
        "experiment_id": "exp_healthcare_bert_v3_001",
        "hypothesis": "Fine-tuning on healthcare data improves medical NER",
        "success_criteria": "F1 score > 0.92 on held-out test set",
        "expected_duration_hours": 16,
        "checkpoint_frequency_minutes": 30,
    },
}


def register(schema, version="1.0.0", **fields) -> pb.RegisterSchemaRequest:
    return pb.RegisterSchemaRequest(
        organisation_id="acme",
        event_type="lab.sample.taken",
        version=version,
        schema_json=json.dumps(schema),
        **fields,
    )


def changed(**properties) -> dict:
    schema = copy.deepcopy(SAMPLE)
    for name, value in properties.items():
        if value is None:
            del schema["properties"][name]
        else:
            schema["properties"][name] = value
    return schema


def organisation() -> Given:
    return given(loomos.data, shard="acme")


@pytest.fixture
def first() -> Given:
    return organisation().when(register(SAMPLE)).accepted()


def test_a_registered_schema_holds_events(first):
    event = pb.NewEvent(type="lab.sample.taken", payload_json='{"id":"12345678901"}')
    command = pb.AppendEventRequest(organisation_id="acme", event=event)
    first.when(command).refused(Code.INVALID_ARGUMENT, "event.payload.id")
    event.payload_json = '{"id":"1"}'
    command.event.CopyFrom(event)
    assert first.when(command).one(pb.EventAppended).schema_version == "1.0.0"


def test_the_same_version_again_changes_nothing_and_never_changes(first):
    first.when(register(SAMPLE)).then()
    first.when(register(changed(weight=None))).refused(Code.ALREADY_EXISTS, "version")
    first.when(register(SAMPLE, "0.9.0")).refused(Code.FAILED_PRECONDITION, "version")


def test_deprecated_versions_take_no_events_and_the_newest_other_one_does(first):
    second = first.when(register(SAMPLE, "1.1.0")).accepted()
    ended = pb.DeprecateSchemaRequest(
        organisation_id="acme", event_type="lab.sample.taken", version="1.1.0"
    )
    after = second.when(ended).accepted()
    after.when(ended).then()
    event = pb.NewEvent(type="lab.sample.taken", payload_json='{"id":"1"}')
    command = pb.AppendEventRequest(organisation_id="acme", event=event)
    assert after.when(command).one(pb.EventAppended).schema_version == "1.0.0"
    command.event.schema_version = "1.1.0"
    after.when(command).refused(Code.FAILED_PRECONDITION, "event.schema_version")


@pytest.mark.parametrize("kind", ["role.granted", "subject.erased", "event.appended"])
def test_nobody_may_tell_what_only_the_platform_tells(kind):
    command = register(SAMPLE)
    command.event_type = kind
    organisation().when(command).refused(Code.INVALID_ARGUMENT, "event_type")


def test_one_type_of_the_platform_is_in_the_seeds_catalogue_too():
    assert events().keys() & types().keys() == {"job.submitted"}


def test_a_built_in_schema_can_be_deprecated_by_an_organisation():
    ended = pb.DeprecateSchemaRequest(
        organisation_id="acme", event_type="job.completed", version="1.0.0"
    )
    after = organisation().when(ended).accepted()
    event = pb.NewEvent(type="job.completed", payload_json='{"job_id":"1","status":"x"}')
    command = pb.AppendEventRequest(organisation_id="acme", event=event)
    after.when(command).refused(Code.FAILED_PRECONDITION, "event.schema_version")


BREAKS = {
    "required": (SAMPLE | {"required": ["id", "who"]}, "payload.who"),
    "narrower": (changed(id={"type": "string", "maxLength": 5}), "payload.id"),
    "other type": (changed(weight={"type": "string"}), "payload.weight"),
    "inside": (
        changed(place={"type": "object", "properties": {"lab": {"type": "integer"}}}),
        "payload.place.lab",
    ),
    "enum": (changed(id={"type": "string", "maxLength": 10, "enum": ["a"]}), "payload.id"),
    "closed": (changed(weight=None) | {"additionalProperties": False}, "payload.weight"),
    "pattern": (changed(id={"type": "string", "maxLength": 10, "pattern": "^a"}), "payload.id"),
}


@pytest.mark.parametrize("what", BREAKS)
def test_what_old_payloads_would_break_is_refused_by_its_path(first, what):
    schema, path = BREAKS[what]
    refusal = first.when(register(schema, "1.1.0")).refused(Code.FAILED_PRECONDITION, "schema")
    assert f"{path}: " in refusal.message
    first.when(register(schema, "1.1.0", compatibility=pb.COMPATIBILITY_NONE)).accepted()


def test_optional_fields_may_come_and_bounds_may_widen(first):
    wider = changed(id={"type": "string", "maxLength": 20}, note={"type": "string"})
    first.when(register(wider, "1.1.0")).accepted()
    first.when(register(wider, "1.1.0", compatibility=pb.COMPATIBILITY_FORWARD)).refused(
        Code.FAILED_PRECONDITION
    )


def test_forward_asks_the_old_version_to_read_the_new_one(first):
    less = copy.deepcopy(SAMPLE) | {"required": []}
    refusal = first.when(register(less, "1.1.0", compatibility=pb.COMPATIBILITY_FORWARD)).refused(
        Code.FAILED_PRECONDITION
    )
    assert "payload.id: is required" in refusal.message
    more = copy.deepcopy(SAMPLE) | {"required": ["id", "weight"]}
    first.when(register(more, "1.1.0", compatibility=pb.COMPATIBILITY_FORWARD)).accepted()
    first.when(register(more, "1.1.0", compatibility=pb.COMPATIBILITY_FULL)).refused(
        Code.FAILED_PRECONDITION
    )


def test_transitive_looks_at_all_versions_and_plain_at_the_last(first):
    loose = register(SAMPLE | {"required": []}, "1.1.0", compatibility=pb.COMPATIBILITY_NONE)
    closed = changed(weight={"type": "string"})
    second = first.when(loose).accepted()
    third = second.when(
        register(changed(weight=None), "1.2.0", compatibility=pb.COMPATIBILITY_NONE)
    ).accepted()
    third.when(register(closed, "1.3.0", compatibility=pb.COMPATIBILITY_BACKWARD)).accepted()
    refusal = third.when(
        register(closed, "1.3.0", compatibility=pb.COMPATIBILITY_BACKWARD_TRANSITIVE)
    ).refused(Code.FAILED_PRECONDITION)
    assert "with 1.0.0" in refusal.message


def test_an_upcaster_makes_compatible_what_it_brings_up(first):
    schema = changed(weight=None, place=None, lab={"type": "string"}, who={"type": "string"})
    schema["required"] = ["id", "who"]
    schema["additionalProperties"] = False
    steps = [
        pb.UpcastStep(action=pb.UPCAST_ACTION_DEFAULT, path="who", value_json='"nobody"'),
        pb.UpcastStep(action=pb.UPCAST_ACTION_MOVE, path="place.lab", to="lab"),
        pb.UpcastStep(action=pb.UPCAST_ACTION_DROP, path="place"),
        pb.UpcastStep(action=pb.UPCAST_ACTION_DROP, path="weight"),
    ]
    loose = SAMPLE | {"additionalProperties": False}
    only = organisation().when(register(loose)).accepted()
    only.when(register(schema, "2.0.0")).refused(Code.FAILED_PRECONDITION)
    only.when(register(schema, "2.0.0", upcast=steps)).accepted()
    found = payload.upcast({"id": "1", "weight": 2, "place": {"lab": "x"}}, steps)
    assert found == {"id": "1", "lab": "x", "who": "nobody"}
    assert compiled(json.dumps(schema)).is_valid(found)


RENAME = pb.UpcastStep(action=pb.UPCAST_ACTION_RENAME, path="weight", to="mass")


@drawn(
    st.fixed_dictionaries(
        {"id": st.text(max_size=10)},
        optional={
            "weight": st.floats(0, 1e9),
            "place": st.fixed_dictionaries({}, optional={"lab": st.text(max_size=5)}),
        },
    )
)
def test_what_is_said_to_be_readable_is_read(document):
    schema = changed(weight=None, mass={"type": "number"})
    steps = [RENAME]
    assert not unreadable(schema, lifted(SAMPLE, steps))
    assert compiled(json.dumps(SAMPLE)).is_valid(document)
    assert compiled(json.dumps(schema)).is_valid(payload.upcast(document, steps))


REFUSED = {
    "no object": ({"type": "string"}, "schema"),
    "recursion": (
        {"type": "object", "$defs": {"a": {"properties": {"b": {"$ref": "#/$defs/a"}}}},
         "properties": {"x": {"$ref": "#/$defs/a"}}}, "schema.$defs.a"),
    "itself": ({"type": "object", "properties": {"x": {"$ref": "#"}}}, "schema"),
    "remote": ({"type": "object", "properties": {"x": {"$ref": "https://x.test/y"}}}, "schema"),
    "crossed bounds": (changed(id={"type": "integer", "minimum": 5, "maximum": 4}),
                       "schema.properties.id"),
    "enum of another type": (changed(id={"type": "integer", "enum": ["a"]}),
                             "schema.properties.id"),
    "required and never there": (
        {"type": "object", "required": ["x"], "properties": {"x": False}}, "schema"),
    "required and closed": (
        {"type": "object", "required": ["x"], "additionalProperties": False}, "schema"),
    "unknown keyword": (changed(id={"type": "string", "maxlength": 5}),
                        "schema.properties.id.maxlength"),
    "dynamic reference": (changed(id={"$dynamicRef": "#x"}), "schema.properties.id.$dynamicRef"),
    "look-behind": (changed(id={"type": "string", "pattern": "(?<=a)b"}), None),
    "pattern bomb": (changed(id={"type": "string", "pattern": "((a{99}){99}){99}"}), None),
    "long pattern": (changed(id={"type": "string", "pattern": "a" * 300}),
                     "schema.properties.id.pattern"),
    "many alternatives": (changed(id={"anyOf": [{"const": n} for n in range(100)]}), "schema"),
    "deep": (json.loads('{"type":"object","properties":{"a":' * 20 + "true" + "}}" * 20), None),
    "another draft": ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"},
                      "schema.$schema"),
    "bound that is no number": (changed(id={"type": "string", "maxLength": "9"}), None),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_schema_that_is_not_admitted_is_refused_by_its_path(what):
    schema, path = REFUSED[what]
    refusal = organisation().when(register(schema)).refused(Code.INVALID_ARGUMENT)
    assert path is None or refusal.field == path
    assert len(refusal.message) < 1000


def test_references_that_multiply_are_counted_where_they_lead():
    level = {
        f"l{n}": {
            "properties": {"a": {"$ref": f"#/$defs/l{n + 1}"}, "b": {"$ref": f"#/$defs/l{n + 1}"}}
        }
        for n in range(30)
    }
    schema = {"type": "object", "$defs": level | {"l30": {"type": "string"}},
              "properties": {"x": {"$ref": "#/$defs/l0"}}}  # fmt: skip
    organisation().when(register(schema)).refused(Code.INVALID_ARGUMENT, "schema")


def test_a_pattern_costs_time_in_proportion_only():
    schema = changed(id={"type": "string", "pattern": "^(a+)+$"})
    assert not compiled(json.dumps(schema)).is_valid({"id": "a" * 200_000 + "!"})


def test_the_catalogue_is_admitted_and_named_as_the_seeds_name_it():
    found = types()
    assert "model.training.start" in found
    assert {"1.2.0", "1.3.0"} == set(found["model.training.start"])
    for name, versions in found.items():
        for version, schema in versions.items():
            after = organisation()
            command = register(json.loads(schema.text), version)
            command.event_type = f"copy.of.{name}"
            assert after.when(command).one(pb.SchemaRegistered).digest == schema.digest


def test_the_catalogue_keeps_the_rule_that_it_sets():
    for versions in types().values():
        schemas = [json.loads(schema.text) for schema in versions.values()]
        for at, reader in enumerate(schemas):
            assert not [told for writer in schemas[:at] for told in unreadable(reader, writer)]


def test_the_seeds_own_example_is_taken_as_it_stands():
    event = pb.NewEvent(type="model.training.start", payload_json=json.dumps(SEEDS_START))
    command = pb.AppendEventRequest(organisation_id="acme", event=event)
    assert organisation().when(command).one(pb.EventAppended).schema_version == "1.3.0"
    command.event.schema_version = "1.2.0"
    organisation().when(command).refused(Code.INVALID_ARGUMENT, "event.payload")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "exclusiveMinimum": 5, "exclusiveMaximum": 5},
        {"type": "number", "minimum": 5, "exclusiveMaximum": 5},
        {"type": "number", "exclusiveMinimum": 7, "maximum": 5},
        {"type": "string", "allOf": [{"type": "integer"}]},
        {"allOf": [{"type": "string"}, {"type": ["integer", "null"]}]},
        {"allOf": [{"type": [{}]}]},
        {"allOf": [{"type": "string"}, False]},
        {"anyOf": [False, False]},
        {"not": {}},
        {"not": True},
    ],
)
def test_bounds_and_types_that_leave_nothing_are_refused(schema):
    refused = organisation().when(register(changed(id=schema)))
    refused.refused(Code.INVALID_ARGUMENT, "schema.properties.id")
    number = {"type": "number", "minimum": 5, "maximum": 5, "exclusiveMinimum": 4}
    either = {"type": "number", "allOf": [{"type": ["number", "null"]}, {"type": "integer"}]}
    organisation().when(register(changed(id=number, weight=either))).accepted()


def test_a_struct_and_a_text_make_the_same_canonical_bytes():
    document = {"b": [1, 2.5, True, None], "a": {"ü": "x"}, "c": 1e300}
    command = register({"type": "object"})
    command.schema.update(document)
    plain = payload.plain(command.schema, "x")
    text = payload.parsed(json.dumps(document), "x")
    assert payload.canonical(plain, "x") == payload.canonical(text, "x")


NUMBERS = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**53), 2**53)
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)))
JSON = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@drawn(JSON)
def test_canonical_form_is_stable_and_keeps_the_value(value):
    once = payload.canonical(value, "x")
    back = payload.parsed(once, "x")
    assert payload.canonical(back, "x") == once
    assert back == value


@drawn(JSON, st.sampled_from([None, 1]))
def test_the_short_way_to_the_canonical_form_ends_at_the_same_bytes(value, indent):
    text = json.dumps(value, indent=indent)
    assert payload.normal(text, "x") == payload.canonical(payload.parsed(text, "x"), "x")


@pytest.mark.parametrize(
    "text",
    [
        '{"a":"\\u0000"}',
        '{"a\\u0000":1}',
        "[" * 26 + "]" * 26,
        '["\\ud800"]',
        "[NaN]",
        '{"a":1e999}',
    ],
)
def test_the_short_way_refuses_the_same(text):
    with pytest.raises(Rejected) as long:
        payload.canonical(payload.parsed(text, "x"), "x")
    with pytest.raises(Rejected) as short:
        payload.normal(text, "x")
    assert str(short.value) == str(long.value)


@drawn(st.binary(max_size=60))
def test_bytes_that_are_no_json_are_refused_and_break_nothing(data):
    try:
        value = payload.parsed(data, "x")
    except Rejected as refusal:
        assert refusal.field == "x"
    else:
        payload.canonical(value, "x")
