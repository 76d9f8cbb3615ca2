"""The witness: cosigns what is proved to have grown, remembers, and says why it refuses."""

import asyncio
import json
import ssl
import threading
from hashlib import sha256

import httpx
import pytest
import uvicorn
from exporting import sealed
from hypothesis import given
from hypothesis import strategies as st
from segment_bytes import judged, make_log

from loom.log.cosign import Submission, WitnessKey
from loom.log.merkle import consistency_proof
from loom.log.note import Checkpoint, InvalidNote, load_signer, parse_checkpoint, split
from loom.log.tiles import Tiles
from loom.log.witnesses import Policy, Witness, Witnesses, load_policy, published, witnessed
from loomos.witness.book import Book, BookHeld, Trusted, found
from loomos.witness.certificate import self_signed
from loomos.witness.checking import add_checkpoint, latest
from loomos.witness.main import Door

TOPIC = "loomos.scheduler"
TOKEN = "witness-token-of-a-test"
NOW_S = 1_790_000_000
EMPTY = sha256().digest()


@pytest.fixture
def signer(tmp_path):
    return load_signer(tmp_path / "credentials", "loomos")


@pytest.fixture
def book(tmp_path, signer):
    logs = [Trusted(signer.verifier, "loomos/")]
    return found(tmp_path / "witness", "witness.example/w1", logs, sha256(TOKEN.encode()).digest())


@pytest.fixture
def tree(tmp_path, signer):
    """A notary's tree of 400 records, and its notes at 100, 300 and 400 leaves."""
    log = judged(make_log(399))
    notary, notes = sealed(tmp_path, TOPIC, 0, log, signer, sizes=(100, 300))
    return Tiles(notary.folder, 400), notes


def submit(book, old, note, path=()):
    return add_checkpoint(Submission(old, tuple(path), note).text().encode(), book, NOW_S)


def test_it_cosigns_what_grew_and_remembers_it(book, tree):
    tiles, (first, second, third) = tree
    answer = submit(book, 0, first)
    assert answer.status == 200
    assert book.cosigner.public.seen_at(first + answer.body) == NOW_S
    # A fresh process on the same folder goes on where this one was.
    again = Book(book.folder)
    proof = consistency_proof(100, 300, tiles.node)
    assert submit(again, 100, second, proof).status == 200
    assert submit(again, 300, second).status == 200
    assert submit(again, 300, third, consistency_proof(300, 400, tiles.node)).status == 200
    origin = parse_checkpoint(split(third)[0]).origin
    shown = latest(sha256(origin.encode()).hexdigest(), again)
    assert shown.status == 200
    assert again.cosigner.public.seen_at(shown.body) == NOW_S
    assert [entry.checkpoint.size for entry in again.entries()] == [400]


def test_another_size_than_it_knows_is_told_with_409(book, tree):
    _, (first, second, _) = tree
    answer = submit(book, 100, second)
    assert (answer.status, answer.body, answer.media_type) == (409, "0\n", "text/x.tlog.size")
    submit(book, 0, first)
    for old in (0, 99, 101):
        answer = submit(book, old, second)
        assert (answer.status, answer.body) == (409, "100\n")


def test_what_is_not_proved_is_refused_with_422(book, tree, signer):
    tiles, (first, second, _) = tree
    assert submit(book, 0, first, [bytes(32)]).status == 422
    submit(book, 0, first)
    proof = consistency_proof(100, 300, tiles.node)
    for path in ((), proof[:-1], [bytes(32), *proof[1:]], [*proof, bytes(32)]):
        assert submit(book, 100, second, path).status == 422
    # The same size with another root is a fork; it stays what it was.
    origin = parse_checkpoint(split(first)[0]).origin
    assert submit(book, 100, signer.sign(Checkpoint(origin, 100, bytes(32)))).status == 422
    assert submit(book, 100, second, proof).status == 200
    fresh = signer.sign(Checkpoint("loomos/other/0/0", 0, bytes(32)))
    assert submit(book, 0, fresh).status == 422
    assert submit(book, 0, signer.sign(Checkpoint("loomos/other/0/0", 0, EMPTY))).status == 200


def test_strangers_are_refused_with_403_and_404(book, tree, tmp_path):
    _, (first, _, _) = tree
    other = load_signer(tmp_path / "other", "loomos")
    checkpoint = parse_checkpoint(split(first)[0])
    assert submit(book, 0, other.sign(checkpoint)).status == 403
    assert submit(book, 0, other.sign(checkpoint._replace(origin="elsewhere/x"))).status == 404
    bent = first.replace("\n100\n", "\n101\n")
    assert submit(book, 0, bent).status == 403
    assert submit(book, 0, first).status == 200


def test_malformed_bodies_are_refused_with_400(book, tree):
    _, (first, _, _) = tree
    assert submit(book, 101, first).status == 400
    for body in (
        b"", b"old 1", b"old -1\n\n" + first.encode(), b"old 01\n\n" + first.encode(),
        b"old 0\n\nnonsense", b"old 0\nAAAA\n\n" + first.encode(), b"\xff\xfe",
        b"old 0\n" + b"A" * 44 + b"\n\n" + first.encode(),
        b"old 0\n" + b"\n".join([b"AAAA"] * 64) + b"\n\n" + first.encode(),
    ):  # fmt: skip
        assert add_checkpoint(body, book, NOW_S).status == 400, body[:60]


@given(st.binary(max_size=300))
def test_hostile_submissions_are_invalid_notes(body):
    try:
        Submission.parse(body.decode("utf-8", "replace"))
    except InvalidNote:
        return
    raise AssertionError(body)


def test_a_damaged_book_cosigns_nothing(book, tree):
    _, (first, second, _) = tree
    submit(book, 0, first)
    origin = parse_checkpoint(split(first)[0]).origin
    book.path(sha256(origin.encode()).hexdigest()).write_text("nonsense")
    assert submit(book, 100, second).status == 500
    (book.folder / "witness.key").unlink()
    with pytest.raises(InvalidNote, match="lost its key"):
        Book(book.folder)
    with pytest.raises(InvalidNote, match="holds a witness already"):
        found(book.folder, "w", [], bytes(32))


def test_two_processes_do_not_share_a_book(book):
    with book.held(), pytest.raises(BookHeld), Book(book.folder).held():
        pass


class Served(threading.Thread):
    """A witness behind its real door, on a port of its own."""

    def __init__(self, book, folder):
        super().__init__(daemon=True)
        certificate, key = self_signed(folder, "127.0.0.1")
        config = uvicorn.Config(
            Door(book, lambda: NOW_S), host="127.0.0.1", port=0, lifespan="off", log_config=None,
            ws="none", ssl_certfile=str(certificate), ssl_keyfile=str(key),
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self.server.install_signal_handlers = lambda: None
        self.certificate = certificate
        self.book = book

    def run(self):
        asyncio.run(self.server.serve())

    def __enter__(self):
        self.start()
        while not self.server.started:
            assert self.is_alive()
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.join(10)

    @property
    def url(self):
        return f"https://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"


@pytest.mark.enable_socket
def test_the_door_asks_for_the_token_and_speaks_tls(book, tree, tmp_path):
    _, (first, _, _) = tree
    body = Submission(0, (), first).text()
    origin = parse_checkpoint(split(first)[0]).origin
    place = f"/{sha256(origin.encode()).hexdigest()}/checkpoint"
    with Served(book, tmp_path) as served:
        trust = ssl.create_default_context(cafile=str(served.certificate))
        with httpx.Client(base_url=served.url, verify=trust, trust_env=False) as client:
            assert client.post("/add-checkpoint", content=body).status_code == 401
            wrong = {"Authorization": "Bearer nonsense"}
            assert client.get(place, headers=wrong).status_code == 401
            client.headers["Authorization"] = f"Bearer {TOKEN}"
            assert client.get(place).status_code == 404
            assert client.post("/add-checkpoint", content=b"x" * 300_000).status_code == 413
            assert client.post("/add-checkpoint", content=body).status_code == 200
            assert client.post("/add-checkpoint", content=body).status_code == 409
            assert client.get(place).text.startswith(first)
            assert client.get("/").status_code == 404
        with pytest.raises(httpx.ConnectError), httpx.Client(trust_env=False) as client:
            client.get(served.url)


def policy_of(served, needed=1, more=()):
    one = Witness(served.url, served.book.cosigner.public, TOKEN, str(served.certificate))
    return Policy(needed, (one, *more))


async def shown(policy, folder, notes, until):
    """Show notes, one after another, and wait until what is stored satisfies `until`."""
    witnesses = Witnesses(policy)
    running = asyncio.create_task(witnesses.run())
    try:
        async with asyncio.timeout(20):
            for note in notes:
                witnesses.show(folder, note)
                await asyncio.sleep(0.05)
            while not until():
                await asyncio.sleep(0.02)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.mark.enable_socket
async def test_the_notary_collects_cosignatures_and_goes_on_without_them(book, tree, tmp_path):
    tiles, notes = tree
    nobody = Witness("https://127.0.0.1:9", WitnessKey("away", bytes(32)), "", "")
    with Served(book, tmp_path) as served:
        policy = policy_of(served, more=(nobody,))
        assert witnessed(tiles.folder, policy) == ("", [])
        await shown(policy, tiles.folder, [notes[0]], lambda: witnessed(tiles.folder, policy)[1])
        assert witnessed(tiles.folder, policy)[0].startswith(notes[0])
        # A process that forgot what the witness knows is told by 409, and proves the rest.
        await shown(
            policy, tiles.folder, [notes[2]], lambda: published(tiles.folder).startswith(notes[2])
        )
        assert witnessed(tiles.folder, policy) == (published(tiles.folder), ["witness.example/w1"])
        assert [entry.checkpoint.size for entry in book.entries()] == [400]
    # Two are wanted and one is away: what has one signature is not shown as witnessed.
    assert witnessed(tiles.folder, policy._replace(needed=2)) == ("", [])


def test_the_policy_comes_from_a_file_of_the_owners_alone(tmp_path, book):
    assert load_policy({}, tmp_path) == Policy()
    key = book.cosigner.public.text()
    file = tmp_path / "witnesses.json"
    one = {"url": "https://w.example/", "key": key, "token": "t", "ca": ""}
    file.write_text(json.dumps({"needed": 1, "witnesses": [one]}))
    file.chmod(0o644)
    with pytest.raises(InvalidNote, match="chmod 600"):
        load_policy({}, tmp_path)
    file.chmod(0o600)
    policy = load_policy({"LOOMOS_WITNESSES": str(file)}, tmp_path / "elsewhere")
    assert (policy.needed, policy.witnesses[0].url) == (1, "https://w.example")
    for content in (
        "{}", "nonsense", json.dumps({"needed": 2, "witnesses": [one]}),
        json.dumps({"witnesses": [one | {"url": "http://w.example"}]}),
        json.dumps({"witnesses": [one | {"key": "a+b+c"}]}),
    ):  # fmt: skip
        file.write_text(content)
        with pytest.raises(InvalidNote):
            load_policy({}, tmp_path)
    with pytest.raises(InvalidNote):
        load_policy({"LOOMOS_WITNESSES": str(tmp_path / "nowhere")}, tmp_path)


@given(st.text(max_size=80))
def test_hostile_keys_are_refused(text):
    with pytest.raises(InvalidNote):
        WitnessKey.parse(text)
