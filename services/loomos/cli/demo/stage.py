"""What the chapters share: the platform they play on, who speaks to it, and the proof of each step.

1. A step holds only with an event of the log: what is told about it is read from there.
2. Everything goes through public doors: the gateway's REST, the command line, an agent's process.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import loomos
from loomos.cli.demo.agents import Agent
from loomos.cli.demo.watch import Watch
from loomos.cli.door import Door
from loomos.client.profile import Refused

__all__ = ["NotHeld", "Stage", "examples", "require"]

Event = Mapping[str, Any]
POLL_SECONDS = 0.2


class NotHeld(Exception):
    """A step of the story did not hold; says what was seen instead."""


def require(holds: bool, otherwise: str) -> None:
    """Raise NotHeld where something is not as the story says."""
    if not holds:
        raise NotHeld(otherwise)


def examples() -> Path:
    """The folder of the example jobs: in the installed package, or beside it in a checkout."""
    package = Path(str(loomos.__file__)).parent
    installed = package / "examples"
    return installed if installed.is_dir() else package.parents[1] / "examples"


@dataclass
class Stage:
    """One home with a running platform, and what the story has made in it so far."""

    home: Path
    tell: Callable[[dict[str, Any]], None]
    """Takes each step as plain data; prints it."""
    began: float = field(default_factory=time.monotonic)
    doors: dict[str, Door] = field(default_factory=dict)
    """Who speaks: `admin` and `researcher`."""
    ids: dict[str, str] = field(default_factory=dict)
    """What was made, by the name that the story gives it."""
    agents: dict[str, Agent] = field(default_factory=dict)
    watches: dict[str, Watch] = field(default_factory=dict)
    """The jobs of the story, each followed live."""
    helpers: list[subprocess.Popen[bytes]] = field(default_factory=list)
    """Processes beside the platform that end with the story."""
    failures: list[str] = field(default_factory=list)

    @property
    def admin(self) -> Door:
        """The administrator's door."""
        return self.doors["admin"]

    @property
    def researcher(self) -> Door:
        """The researcher's door."""
        return self.doors["researcher"]

    def held(self, step: int, told: str, event: Event | None = None, **facts: Any) -> None:
        """Tell a step that held, and the event that proves it."""
        proof = {}
        if event is not None:
            kind = event.get("type") or event.get("event_type")
            proof = {"event_id": event["event_id"], "event_type": kind}
        self.tell({"step": step, "held": True, "told": told, **self.clock(), **proof, **facts})

    def failed(self, step: int, why: str) -> None:
        """Tell a step that did not hold."""
        self.failures.append(why)
        self.tell({"step": step, "held": False, "told": why, **self.clock()})

    def clock(self) -> dict[str, float]:
        """Seconds since the story began."""
        return {"seconds": round(time.monotonic() - self.began, 1)}

    def event(
        self,
        type_prefix: str,
        stream: str = "",
        seconds: float = 20.0,
        where: Callable[[Event], bool] = lambda event: True,
        **filters: Any,
    ) -> Event:
        """The latest event of a type in the audit index, as soon as it is there."""
        asked = {"type_prefix": type_prefix, "stream": stream, "limit": 1000, **filters}
        asked = {name: value for name, value in asked.items() if value}
        path = "/api/v1/organisations/platform/audit/events"

        def look() -> Event | None:
            page = self.admin.call("GET", path, params=asked)
            found = [event for event in page["events"] if where(event)]
            return found[-1] if found else None

        return self.wait(f"no {type_prefix} of {stream or 'anybody'} in the log", look, seconds)

    def wait(self, otherwise: str, look: Callable[[], Any], seconds: float) -> Any:
        """What a look finds, once it finds something; NotHeld after so many seconds."""
        deadline = time.monotonic() + seconds
        while True:
            if found := look():
                return found
            require(time.monotonic() < deadline, f"{otherwise} after {seconds:.0f} s")
            time.sleep(POLL_SECONDS)

    def refused(self, call: Callable[[], Any]) -> Refused:
        """The refusal that a call meets; NotHeld where it is let through."""
        try:
            answer = call()
        except Refused as refusal:
            return refusal
        raise NotHeld(f"it was let through: {answer}")

    def state(self) -> dict[str, Any]:
        """What the supervisor says about its processes now."""
        return json.loads((self.home / "state.json").read_bytes())

    def loomos(
        self, *words: str, profile: str = "admin", seconds: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end, as somebody at a terminal would."""
        environ = os.environ | {"LOOMOS_HOME": str(self.home), "LOOMOS_PROFILE": profile}
        return subprocess.run(
            [sys.executable, "-m", "loomos.cli.main", *words],
            env=environ,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def close(self, keep: bool) -> None:
        """End what the story started beside the platform; its nodes too, unless it stays up."""
        for watch in self.watches.values():
            watch.close()
        for agent in self.agents.values():
            if not keep:
                agent.kill_node()
        for helper in self.helpers:
            helper.kill()
            helper.wait()
        for door in self.doors.values():
            door.close()
