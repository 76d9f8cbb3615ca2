"""The enrolment token: fresh at each start, none once it was used, never readable by others."""

import hashlib
import json
import stat
from pathlib import Path

from loomos.embedded.enrolment import mint
from loomos.embedded.home import Home


def test_each_start_offers_a_fresh_token_until_one_was_used(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    first, second = mint(home), mint(home)
    assert first != second
    path = home.credentials / "security" / "enrolment.json"
    noted = json.loads(path.read_bytes())
    assert noted["sha256"] == hashlib.sha256(second.encode()).hexdigest()
    assert (home.path / "enrolment.token").read_text() == second + "\n"
    path.write_text(json.dumps(noted | {"used": True}))
    assert mint(home) == ""


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    token = mint(home)
    path = home.credentials / "security" / "enrolment.json"
    assert token not in path.read_text()
    for file in (path, home.path / "enrolment.token"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
