"""What schemas declare personal, where it is found, and what events say they hold sealed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom import declared, personal
from loom.kit.masking import masked
from loom.log.seal import Algorithm, DataKey, Spot, new_secret, seal
from loom.v1 import data_pb2, security_pb2

PERSONAL = {"x-loomos-personal": True}
KEY = DataKey("a" * 24 + ".1", "acme", "p-7", Algorithm.AES_256_GCM, new_secret())


@pytest.mark.parametrize(
    "schema, pointers",
    [
        ({}, ()),
        (PERSONAL, ("",)),
        ({"properties": {"a": PERSONAL, "b": {}}}, ("/a",)),
        ({"properties": {"a/b": PERSONAL, "c~d": PERSONAL}}, ("/a~1b", "/c~0d")),
        ({"properties": {"a": PERSONAL | {"properties": {"b": PERSONAL}}}}, ("/a",)),
        ({"items": {"properties": {"n": PERSONAL}}}, ("/*/n",)),
        ({"prefixItems": [{}, PERSONAL]}, ("/1",)),
        ({"additionalProperties": PERSONAL}, ("/*",)),
        ({"patternProperties": {"^x-": {"properties": {"n": PERSONAL}}}}, ("/*/n",)),
        ({"allOf": [{"properties": {"a": PERSONAL}}]}, ("/a",)),
        ({"if": {}, "then": {"properties": {"a": PERSONAL}}}, ("/a",)),
        ({"$ref": "#/$defs/p", "$defs": {"p": {"properties": {"a": PERSONAL}}}}, ("/a",)),
        ({"properties": {"next": {"$ref": "#"}}}, ()),
        ({"properties": {"next": {"$ref": "#"}, "n": PERSONAL}}, ("/n", "/next")),
        ({"$ref": "#/nowhere"}, ()),
        ({"properties": {"a": {"x-loomos-personal": "yes"}}}, ()),
    ],
)
def test_a_schema_says_what_is_personal(schema, pointers):
    assert declared.pointers(schema) == pointers


# A member of that name has no pointer of its own: the pointer means them all.
NAMES = st.text().filter(lambda name: name != "*")


@given(st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(NAMES, inner)))
def test_a_star_leads_to_every_member_and_exact_pointers_lead_back(document):
    for holder, name, exact in personal.spots(document, "/*"):
        assert list(personal.spots(document, exact)) == [(holder, name, exact)]
    names = document if isinstance(document, dict) else {}
    assert len(list(personal.spots(document, "/*"))) == len(names)


def test_pointers_that_lead_nowhere_lead_nowhere():
    document = {"a": [1, 2]}
    for pointer in ("/b", "/a/2", "/a/-1", "/a/x", "/a/0/b", f"/a/{'9' * 30}", "/a/00000000000"):
        assert list(personal.spots(document, pointer)) == []


def test_an_event_says_for_whom_something_is_sealed_in_it():
    event = data_pb2.EventAppended(event_id="e", data_subject="p-7", sealed_paths=["/email"])
    event.payload = json.dumps({"email": "ada@example.org"}).encode()
    assert personal.sealed_for(event) == []
    event.payload = json.dumps({"email": seal(KEY, Spot("e", "#/email"), b'"ada"')}).encode()
    assert personal.sealed_for(event) == ["p-7"]
    user = security_pb2.UserCreated(user_id="usr-acme-x", user_name=seal(KEY, Spot("", ""), b"a"))
    assert personal.sealed_for(user) == ["usr-acme-x"]
    assert personal.sealed_for(security_pb2.UserReinstated(user_id="x")) == []
    (place,) = personal.places(user)
    assert (place.id, place.path) == ("usr-acme-x", "user_name")


def test_what_looks_sealed_must_look_so_entirely():
    assert personal.key_of(seal(KEY, Spot("", ""), b"")) == KEY.id
    for text in ("", "sealed:1:", f"sealed:2:{KEY.id}:abc", f"sealed:1:{KEY.id}:a b", None, 5):
        assert personal.key_of(text) == ""


def test_words_of_a_refusal_leave_personal_values_out():
    request = data_pb2.AppendEventRequest(organisation_id="acme")
    request.event.data_subject = "p-7"
    request.event.payload_json = json.dumps({"age": 17, "name": "Ada", "tags": ["x.y*"]})
    told = masked("age 17 of 'Ada' (not 170, not Adam): x.y* does not fit", request)
    assert told == ("age [personal] of '[personal]' (not 170, not Adam): [personal] does not fit")
    request.event.payload_json = '{"n":1}'
    told = masked("n is 1: see schema x@1.0.0, not 1.", request)
    assert told == "n is [personal]: see schema x@1.0.0, not [personal]."
    login = security_pb2.CreateUserRequest(organisation_id="acme", user_name="ada")
    assert masked("user name 'ada' is taken in 'acme'", login) == (
        "user name '[personal]' is taken in 'acme'"
    )
