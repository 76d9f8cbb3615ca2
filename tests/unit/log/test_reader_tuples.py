"""What a reader makes of a record without the named tuples' own constructors is whole."""

from loom.decider import Recorded
from loom.log import envelope
from loom.log.envelope import Origin
from loom.log.judge import Judge, Kind, Stamp
from loom.log.judged import Judged
from loom.log.reader import recorded
from loom.v1 import deployment_pb2 as pb

ORIGIN = Origin("/loomos/d", "acme.vision", "user:u", "c", b"d" * 32, 1, 2, "s", "e", "t")


def test_each_tuple_of_a_read_event_has_all_its_fields_as_they_were_written() -> None:
    event = pb.DeploymentFailed(deployment_id="deployment-1", revision=2, reason="r")
    judge = Judge()
    claim = b"c" * 16
    marker = envelope.marker(Stamp(Kind.MARKER, 0, 1, claim, 0, 1, 1, bytes(32)), "o", 1)
    judge.admit(marker.key, marker.headers, marker.value)
    stamp = Stamp(Kind.EVENT, 0, 1, claim, 1, 1, 1, judge.before)
    sealed = envelope.seal(envelope.draft([event], [7], ORIGIN)[0], stamp)

    verdict = judge.admit(sealed.key, sealed.headers, sealed.value)
    read = recorded(Judged(4, 5, sealed.key, sealed.value, sealed.headers, verdict), "loomos.d", 0)

    assert verdict == (Kind.EVENT, sealed.digest, stamp, "", sealed.digest)
    assert verdict.stamp == Stamp._make(stamp)
    assert read == Recorded(
        event, "deployment.failed", f"{envelope.token_of('user:u', 'c')}.1", "deployment-1", 7,
        "acme.vision", read.position, 2, "user:u", "c", "s", "e", 1, "t", b"d" * 32, False,
    )  # fmt: skip
    assert read.position == ("loomos.d", 0, 4, 0)
    for made in (verdict, verdict.stamp, read, read.position):
        assert made is not None
        assert len(made) == len(made._fields)
