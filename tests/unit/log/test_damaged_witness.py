"""A witness whose folder is damaged says so, and cosigns nothing of what it cannot read."""

import pytest
from damaging import WAYS, append, damaged, dangling, delete, endless, flip
from typer.testing import CliRunner

from loom.log.cosign import Submission
from loom.log.note import Checkpoint, InvalidNote, load_signer
from loomos.cli.witness import app
from loomos.witness.book import Book, Trusted, digest_of, found
from loomos.witness.checking import add_checkpoint, latest

ORIGIN = "loomos/loomos.scheduler/0/0"
GONE = (delete, dangling)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A witness that has cosigned one checkpoint of one log."""
    top = tmp_path_factory.mktemp("witness")
    signer = load_signer(top / "notary", "loomos")
    book = found(top / "w", "witness.example/w1", [Trusted(signer.verifier, "loomos/")], bytes(32))
    body = Submission(0, (), signer.sign(Checkpoint(ORIGIN, 1, bytes(32)))).text()
    assert add_checkpoint(body.encode(), book, 1).status == 200
    return top / "w"


@pytest.mark.parametrize("way", [one for one in WAYS if one is not flip])
def test_an_entry_that_cannot_be_read_stops_the_answers_about_its_log(folder, way):
    path, book = folder / "logs" / digest_of(ORIGIN), Book(folder)
    signer = load_signer(folder.parent / "notary", "loomos")
    body = Submission(1, (), signer.sign(Checkpoint(ORIGIN, 1, bytes(32)))).text().encode()
    with damaged(path, way):
        status = 404 if way in GONE else 500
        assert latest(digest_of(ORIGIN), book).status == status
        assert add_checkpoint(body, book, 2).status == (409 if way in GONE else 500)
        shown = CliRunner().invoke(app, ["show", str(folder)])
        assert isinstance(shown.exception, SystemExit | None)
        assert shown.exit_code == (0 if way in GONE else 2)


@pytest.mark.parametrize("way", [one for one in WAYS if one not in (flip, append)])
@pytest.mark.parametrize("name", ["witness.json", "witness.key"])
def test_a_witness_without_settings_or_key_does_not_start(folder, name, way):
    with damaged(folder / name, way):
        if way is not endless or name != "witness.key":
            with pytest.raises(InvalidNote):
                Book(folder)
        assert CliRunner().invoke(app, ["show", str(folder)]).exit_code == 2
