"""Rules of keys and erasure."""

import pytest
from tests.given import given

import loomos.loomdb
from loom.decider import Code
from loom.v1 import loomdb_pb2 as pb

KEYS = ["a" * 24 + ".1", "b" * 24 + ".3"]


def acme(*events):
    return given(loomos.loomdb, *events, shard="acme")


def erase(subject="p-7", **more):
    fields = {"ground": pb.LEGAL_GROUND_REQUEST, "reason": "asked", "key_ids": KEYS} | more
    return pb.EraseSubjectRequest(organisation_id="acme", subject=subject, **fields)


def hold(hold_id="hold-1", **scope):
    return pb.HoldPlaced(hold_id=hold_id, organisation_id="acme", scope=pb.HoldScope(**scope))


def test_an_erasure_is_ordered_once_and_ends_once():
    ordered = acme().when(erase(), actor="user:usr-acme-x")
    event = ordered.one(pb.SubjectErased)
    assert list(event.key_ids) == KEYS
    assert (event.subject, event.ordered_by) == ("p-7", "user:usr-acme-x")
    after = ordered.accepted()
    after.when(erase(), command_id="c-2").refused(Code.FAILED_PRECONDITION, "subject")
    after.when(erase("p-8"), command_id="c-2").accepted()
    report = pb.ReportKeysDestroyedRequest(
        organisation_id="acme", erasure_id=event.erasure_id, keys=[pb.KeyTombstone(key_id=KEYS[0])]
    )
    done = after.when(report).then(
        pb.KeyDestroyed(
            erasure_id=event.erasure_id, organisation_id="acme", subject="p-7", keys=report.keys
        )
    )
    done.when(report).then()
    done.when(erase(), command_id="c-3").one(pb.SubjectErased)


@pytest.mark.parametrize("scope", [{"subject": "p-7"}, {}, {"type_pattern": "model.*"}])
def test_a_hold_that_may_cover_the_subject_forbids_it(scope):
    held = acme(hold(**scope))
    assert "hold-1" in held.when(erase()).refused(Code.FAILED_PRECONDITION, "subject").message
    released = pb.HoldReleased(hold_id="hold-1", organisation_id="acme")
    acme(hold(**scope), released).when(erase()).accepted()


def test_a_hold_of_somebody_else_does_not():
    acme(hold(subject="p-8")).when(erase()).accepted()


def test_who_has_no_key_is_unknown_and_the_platforms_own_keys_are_nobodys():
    acme().when(erase(key_ids=[])).refused(Code.NOT_FOUND, "subject")
    for subject in ("digests:acme", "index:acme"):
        acme().when(erase(subject)).refused(Code.INVALID_ARGUMENT, "subject")


def test_a_rotation_is_ordered_once_for_each_key():
    command = pb.RotateKeyRequest(organisation_id="acme", subject="p-7", key_id=KEYS[0])
    order = pb.RotationOrdered(
        keys_id="keys-acme", organisation_id="acme", subject="p-7", key_id=KEYS[0]
    )
    ordered = acme().when(command).then(order)
    ordered.when(command).then()
    report = pb.ReportKeysRenewedRequest(organisation_id="acme", subject="p-7", key_id=KEYS[1])
    rotated = pb.KeyRotated(
        keys_id="keys-acme", organisation_id="acme", subject="p-7", key_id=KEYS[1]
    )
    ordered.when(report).then(rotated).when(report).then()
    acme().when(pb.RotateKeyRequest(organisation_id="acme", subject="x")).refused(Code.NOT_FOUND)


def test_only_the_platform_has_all_keys_wrapped_anew():
    acme().when(pb.RewrapKeysRequest(organisation_id="acme")).refused(
        Code.INVALID_ARGUMENT, "organisation_id"
    )
    platform = given(loomos.loomdb, shard="platform")
    ordered = platform.when(pb.RewrapKeysRequest(organisation_id="platform", renew=True))
    assert ordered.one(pb.RewrapOrdered).renew
    after = ordered.accepted()
    after.when(pb.RewrapKeysRequest(organisation_id="platform")).then()
    report = pb.ReportKeysRenewedRequest(
        organisation_id="platform", key_id="kek-000002", rewrapped=3
    )
    told = after.when(report)
    assert told.one(pb.KeysRewrapped).kek_id == "kek-000002"
    told.accepted().when(report).then()
