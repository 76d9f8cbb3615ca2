"""Hostile input: records written with an administrator's rights, events that must be refused,
retries by the thousand, many writers for one version.
"""

import asyncio
import json
import random

from aiokafka import AIOKafkaProducer
from google.protobuf.message import Message

from loom.kit.errors import Failure
from loom.log.judge import Kind
from loom.log.topics import MESSAGE_BYTES_MAX, connection
from loom.v1 import data_pb2 as pb
from loomos.cli.chaos.appends import KIND, ORGANISATIONS, sample
from loomos.cli.chaos.world import RECOVER_SECONDS, TOPIC, World
from loomos.cli.soak.load import UNTOLD, Load
from loomos.cli.soak.world import read_partition

__all__ = ["forged_records", "hostile_events", "many_writers", "retried"]

ANSWERS = 15
MEBIBYTE = 2**20
DEPTH = 5_000
RETRIES = 10_000
RETRY_CALLERS = 32
RETRIES_A_COMMAND = 10
KILLS = 2
WRITERS = 32
VERSIONS = 5
VERDICTS = (
    "INVALID_ARGUMENT",
    "FAILED_PRECONDITION",
    "ALREADY_EXISTS",
    "NOT_FOUND",
    "OUT_OF_RANGE",
)


async def forged_records(made: World, load: Load, chance: random.Random) -> str:
    """Garbage, a forged claim, doubles of true records, 1 MiB: void for everybody, harm to none."""
    settings = made.settings("loomdb")
    records, _ = await read_partition(settings, TOPIC)
    true = [one for one in records if one.verdict.kind == Kind.EVENT]
    old, last = chance.choice(true), true[-1]
    changed = [(name, value[:-1] + bytes([value[-1] ^ 1])) for name, value in last.headers if value]
    written = [
        (b"acme", bytes(chance.randrange(256) for _ in range(200)), []),
        (b"acme", b"", [("ce", b"\xff" * 40)]),
        (None, b"", []),
        (old.key, old.value, list(old.headers)),
        (last.key, last.value, list(last.headers)),
        (last.key, last.value, changed),
        (last.key, b"\x0a" * 64, list(last.headers)),
        (b"acme", b"\0" * MEBIBYTE, [("ce_type", b"event.unknown"), ("ce_id", b"x")]),
    ]
    producer = AIOKafkaProducer(
        **connection(made.stores.administrator()), max_request_size=MESSAGE_BYTES_MAX
    )
    await producer.start()
    try:
        sent = [
            (await producer.send_and_wait(TOPIC, value, key, headers=headers)).offset
            for key, value, headers in written
        ]
    finally:
        await producer.stop()
    await load.go_on(ANSWERS, RECOVER_SECONDS)
    after, _ = await read_partition(settings, TOPIC)
    believed = [one.offset for one in after if one.offset in sent and one.verdict.valid]
    assert not believed, f"forged records at {believed} count"
    return f"{len(sent)} records written beside the owner, all void"


async def hostile_events(made: World, load: Load, chance: random.Random) -> str:
    """Through the public door: each is refused with a reason."""
    deep: Message = pb.AppendEventRequest(organisation_id=ORGANISATIONS[0])
    mark = chance.randrange(2**32)
    requests: list[pb.AppendEventRequest] = []
    for index, (kind, version, content, at_us) in enumerate(
        (
            (KIND, "", "{", 0),
            (KIND, "", '{"said": 1}', 0),
            (KIND, "", '{"said": "x", "more": 1}', 0),
            (KIND, "", '{"said": "' + "x" * MEBIBYTE + '"}', 0),
            (KIND, "", "[" * DEPTH + "]" * DEPTH, 0),
            (KIND, "9.9.9", '{"said": "x"}', 0),
            (KIND, "1", '{"said": "x"}', 0),
            ("chaos.unknown.type", "", "{}", 0),
            ("Not A Type", "", "{}", 0),
            (KIND, "", '{"said": "x"}', 2**62),
            (KIND, "", '{"said": NaN}', 0),
            (KIND, "", '{"said": "\\ud800"}', 0),
        )
    ):
        event = pb.NewEvent(
            event_id=f"hostile-{mark}-{index}",
            type=kind,
            schema_version=version,
            payload_json=content,
            occurred_at_us=at_us,
        )
        requests.append(pb.AppendEventRequest(organisation_id=ORGANISATIONS[0], event=event))
    itself = pb.NewEvent(event_id=f"own-{mark}", type=KIND, causation_id=f"own-{mark}")
    itself.payload_json = json.dumps({"said": "x"})
    requests.append(pb.AppendEventRequest(organisation_id=ORGANISATIONS[0], event=itself))
    del deep
    for request in requests:
        said = await made.people.verdict(request, request.organisation_id, RECOVER_SECONDS)
        code = said.partition(":")[0]
        assert code in VERDICTS, f"{request.event.payload_json[:40]!r} got {code}"
    return f"{len(requests)} hostile events, all refused"


async def retried(made: World, load: Load, chance: random.Random, count: int = RETRIES) -> str:
    """One event, thousands of retries, the owner killed meanwhile: it counts once."""
    mark = f"again-{chance.randrange(2**32)}"
    request = pb.AppendEventRequest(organisation_id=ORGANISATIONS[0], event=sample(mark, "again"))
    left = iter(range(count))
    told = {"first": 0, "repeated": 0, "unknown": 0}
    places: set[int] = set()

    async def caller() -> None:
        for number in left:
            # Most under the first command's id; some as new commands, which bring the same event.
            given = f"{mark}-{number}" if number % RETRIES_A_COMMAND == 1 else mark
            if number and number % (count // (KILLS + 1) + 1) == 0:
                made.say(f"retry {number} of {count}: {told}; the owner is killed")
                (await made.owner("data")).kill()
            answer = await told_at_last(made, request, given, told)
            told["repeated" if answer.duplicates else "first"] += 1
            places.add(answer.events[0].position.offset)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(RETRY_CALLERS):
            tasks.create_task(caller())
    assert len(places) == 1, f"the event is said to stand at {sorted(places)}"
    return f"{count} retries: {told}, one place"


async def told_at_last(
    made: World, request: pb.AppendEventRequest, command_id: str, told: dict[str, int]
) -> pb.AppendResult:
    """The answer to a retry, asked for while nothing is known; AssertionError where refused."""
    async with asyncio.timeout(RECOVER_SECONDS):
        while True:
            try:
                answer = await made.people.tell(request, request.organisation_id, command_id)
            except Failure as failure:
                assert failure.code in UNTOLD, f"a retry was refused: {failure.code} {failure}"
                told["unknown"] += 1
                await asyncio.sleep(0.05)
            else:
                assert isinstance(answer, pb.AppendResult)
                return answer


async def many_writers(made: World, load: Load, chance: random.Random) -> str:
    """32 writers expect the same version of one stream: exactly one wins each."""
    stream = f"contested-{chance.randrange(2**32)}"
    for version in range(VERSIONS):

        async def writer(number: int, version: int = version) -> bool:
            name = f"{stream}-{version}-{number}"
            request = pb.AppendEventRequest(
                organisation_id=ORGANISATIONS[1],
                event=sample(name, stream),
                expected_stream_version=version,
            )
            for _ in range(200):
                try:
                    await made.people.tell(request, request.organisation_id, name)
                except Failure as failure:
                    if failure.code not in UNTOLD:
                        assert failure.code == "ABORTED", failure.code
                        return False
                    if "refus" in str(failure) and failure.code == "RESOURCE_EXHAUSTED":
                        # So many may not be recorded a minute; it was not appended.
                        return False
                    await asyncio.sleep(0.1)
                else:
                    return True
            raise AssertionError(f"{name} never heard an answer")

        winners = await asyncio.gather(*(writer(number) for number in range(WRITERS)))
        assert sum(winners) == 1, f"version {version + 1} of {stream} has {sum(winners)} winners"
    return f"{WRITERS} writers, {VERSIONS} versions, one winner each"
