"""The command line: what becomes of arguments, and how mistakes are told."""

import base64
import importlib
import json
import pkgutil

import pytest
import typer

import loomos.cli
from loomos.cli import admin, docs, main, quotas, show, submit
from loomos.cli.jobs import status_of


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr("sys.argv", ["loomos", *arguments])
    with pytest.raises(SystemExit) as ended:
        main.main()
    said = capsys.readouterr()
    return ended.value.code, said.out, said.err


def test_what_a_command_imports_only_when_it_runs_is_there():
    found = [one.name for one in pkgutil.walk_packages(loomos.cli.__path__, "loomos.cli.")]
    assert len(found) > 60
    for name in found:
        if not name.endswith("_peer"):  # what benchmarks compare with is installed for them alone
            importlib.import_module(name)


def test_bad_usage_is_one_line_and_exit_status_2(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LOOMOS_HOME", str(tmp_path))
    for arguments, told in (
        (("quota", "set", "acme", "--gpu-hours", "many"), "'many'"),
        (("submit", "--project", "acme.vision", "--memory", "lots", "--", "true"), "--memory"),
        (("submit", "--project", "acme.vision", "--priority", "top", "--", "true"), "--priority"),
        (("nope",), "nope"),
    ):
        code, out, err = run(monkeypatch, capsys, *arguments)
        assert (code, out) == (2, "")
        assert told in err
        assert len(err.splitlines()) == 1


def test_a_refusal_is_one_line_and_exit_status_1(monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("LOOMOS_HOME", str(tmp_path))
    for name in ("LOOMOS_API_KEY", "LOOMOS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    code, _, err = run(monkeypatch, capsys, "jobs")
    assert code == 1
    assert err.startswith("refused: ")
    assert len(err.splitlines()) == 1


def test_files_of_the_command_go_along(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lib").mkdir()
    (tmp_path / "train.py").write_text("print(1)")
    (tmp_path / "lib" / "data.csv").write_text("1,2")
    (tmp_path.parent / "secret").write_text("no")
    found = submit.inputs_of(["python", "train.py", "--in", "../secret"], ["lib/data.csv"])
    assert [one["path"] for one in found] == ["lib/data.csv", "train.py"]
    assert base64.b64decode(found[1]["content"]) == b"print(1)"
    (named,) = submit.inputs_of([], ["x.txt=../secret"])
    assert named["path"] == "x.txt"


def test_too_much_input_is_refused_before_it_is_read(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with (tmp_path / "big").open("wb") as file:
        file.truncate(submit.INPUT_BYTES_MAX + 1)
    with pytest.raises(typer.BadParameter, match="may go along"):
        submit.inputs_of([], ["big"])
    with pytest.raises(typer.BadParameter, match="names no file"):
        submit.inputs_of([], ["absent"])


@pytest.mark.parametrize(
    ("command", "name"),
    [
        (["python", "train_digits.py"], "train_digits"),
        (["/bin/sleep", "1"], "sleep"),
        (["python", "My Script.py"], "my-script"),
        (["…"], "job"),
    ],
)
def test_a_job_is_named_after_its_script(command, name):
    assert submit.job_name(command) == name


def test_limits_read_as_they_are_written():
    limits = [
        {"kind": quotas.GPU_TIME, "limit": str(40 * 3_600_000), "type": "QUOTA_TYPE_HARD"},
        {"kind": quotas.COST, "limit": "100000000", "type": "QUOTA_TYPE_SOFT"},
    ]
    assert quotas.limits_text(limits) == "GPU hours a month 40; cost a month $100.00 (soft)"
    assert quotas.limits_text([]) == "no limits"


def test_words_of_the_contract_are_checked_here():
    assert status_of("running") == "JOB_STATUS_RUNNING"
    assert admin.classification_of("restricted") == "DATA_CLASSIFICATION_RESTRICTED"
    assert admin.split_role("admin@acme.vision", "acme") == ("admin", "acme.vision")
    assert admin.split_role("viewer", "acme") == ("viewer", "acme")
    for refuse in (
        lambda: status_of("asleep"),
        lambda: admin.classification_of("secret"),
        lambda: admin.grant_of("god", "acme"),
    ):
        with pytest.raises(typer.BadParameter):
            refuse()


def test_text_of_strangers_styles_nothing(capsys):
    show.table(("name",), [("[red]x[/red]\x1b[31m\n",)], "")
    assert "[red]x[/red]\ufffd[31m\ufffd" in capsys.readouterr().out


def test_every_event_says_what_it_means_and_carries():
    entries = docs.entries()
    assert "job.preempted" in [entry["type"] for entry in entries]
    for entry in entries:
        assert entry["means"], entry["type"]
        assert all(one["means"] for one in entry["carries"]), entry["type"]


def test_the_catalogue_is_one_object_a_line(monkeypatch, capsys):
    code, out, _ = run(monkeypatch, capsys, "docs", "events", "--service", "scheduler", "--json")
    assert code == 0
    assert {json.loads(line)["emitted_by"] for line in out.splitlines()} == {"scheduler"}
