"""The home folder, logs and processes: what needs neither Kafka nor Postgres."""

import json
import os

import pytest

from loomos.embedded import home as home_module
from loomos.embedded.home import Home
from loomos.embedded.logs import cap
from loomos.embedded.process import Unusable, alive, mark, tail
from loomos.embedded.supervisor import chosen


def test_ports_are_picked_once_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(home_module, "bindable", lambda port: True)
    home = Home.open(tmp_path / "home")
    first = home.ports(["kafka", "postgres"])
    assert home.ports(["postgres", "kafka", "gateway"]) == {
        **first,
        "gateway": json.loads((home.path / "ports.json").read_text())["gateway"],
    }
    assert len(set(home.ports(["kafka", "postgres", "gateway"]).values())) == 3


def test_a_taken_port_is_named_with_the_way_out(tmp_path, monkeypatch):
    home = Home.open(tmp_path / "home")
    monkeypatch.setattr(home_module, "bindable", lambda port: port != 1234)
    with pytest.raises(Unusable, match=r"port 1234 \(kafka\) is taken .*ports\.json"):
        home.check_ports({"postgres": 1233, "kafka": 1234})


def test_one_supervisor_holds_the_lock(tmp_path):
    home = Home.open(tmp_path / "home")
    held = home.lock()
    assert held is not None
    assert home.lock() is None
    held.close()
    again = home.lock()
    assert again is not None
    again.close()


def test_a_full_disk_is_told_before_anything_starts(tmp_path, monkeypatch):
    usage = home_module.shutil._ntuple_diskusage(10**9, 10**9, 2**20)
    monkeypatch.setattr(home_module.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(Unusable, match="1 MiB free, 512 MiB are needed"):
        Home.open(tmp_path / "home")


def test_the_home_is_its_owners_alone(tmp_path):
    home = Home.open(tmp_path / "home")
    assert home.path.stat().st_mode & 0o777 == 0o700
    assert home.credentials.stat().st_mode & 0o777 == 0o700


def test_a_large_log_moves_aside_and_its_writer_goes_on(tmp_path):
    log = tmp_path / "service.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 100)
        cap(tmp_path, bytes_max=99)
        writer.write(b"later")
    assert log.read_bytes() == b"later"
    assert (tmp_path / "service.log.1").read_bytes() == b"x" * 100


def test_a_pid_used_again_is_a_stranger():
    marked = mark(os.getpid())
    assert alive(marked) is not None
    assert alive(f"{os.getpid()} 1.00") is None
    assert alive("not a mark") is None


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("", ""),
        ("starting\n\n", "starting"),
        ('{"event": "ended", "error": "no lease"}\n', "no lease"),
        ("java.net.BindException: taken\n\tat Foo.bar\n", "java.net.BindException: taken"),
    ],
)
def test_a_log_is_told_in_one_line(tmp_path, lines, told):
    log = tmp_path / "x.log"
    log.write_text(lines)
    assert tail(log) == told


def test_unknown_services_are_refused_by_name():
    with pytest.raises(Unusable, match="'nope'"):
        chosen("gateway,nope")
    assert chosen("gateway") == ("gateway",)
