"""Prepares stores that run elsewhere, for services that are containers of their own.

`python -m loomos.embedded.provision keys BROKER… | stores | renew`, on LOOMOS_HOME:

1. `keys` founds the authority and gives each broker and each service its certificate; `renew` goes
   on doing so for the services, whose leaves live for a day. A broker reads its own at start only.
2. `stores` makes users, rights, topics and roles by the code of `loomos up`, offers the enrolment
   token, and writes where the edges listen. All three may be repeated.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from loom.kit.authority import Authority, write_secret
from loom.kit.config import default_home
from loomos.embedded.enrolment import mint
from loomos.embedded.home import Home
from loomos.embedded.process import Unusable
from loomos.embedded.services import ALL
from loomos.embedded.stores import Stores

__all__ = ["PORT", "keys", "main", "renew", "stores"]

PORT = 7443
"""Where each service listens under its own name."""
NAMED = (*ALL, "supervisor", "admin", "collector")
"""Who gets a leaf: services, who asks for their health, who sets up, who gathers metrics."""
RENEWAL_SECONDS = 30.0


def keys(home: Home, brokers: Sequence[str]) -> None:
    """Found the authority; issue a key store for each broker and a leaf for each service."""
    authority = Authority.open(home.authority)
    folder = home.path / "kafka"
    folder.mkdir(mode=0o700, exist_ok=True)
    write_secret(folder / "ca.crt", authority.certificate_pem)
    for broker in brokers:
        authority.broker_keystore(folder / f"{broker}.pem", broker)
    issue(home, authority)


def issue(home: Home, authority: Authority) -> None:
    """A leaf for each service whose own is missing or past half its life."""
    for service in NAMED:
        authority.renew_if_due(home.credentials / service, "service", service)


def renew(home: Home) -> None:
    """Renew until told to stop."""
    stop = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    authority = Authority.open(home.authority)
    while signal.sigtimedwait(stop, RENEWAL_SECONDS) is None:
        issue(home, authority)


def stores(home: Home, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Make in the given Kafka and Postgres what services need."""
    for variable in ("LOOMOS_KAFKA", "LOOMOS_POSTGRES"):
        if not environ.get(variable):
            raise Unusable(f"{variable} is missing: say where the store is")
    made = Stores(home, environ)
    made.provision((*ALL, "supervisor"))
    listening = {name: {"address": f"{name}:{PORT}"} for name in ALL}
    home.write_state(
        {
            "version": 1,
            "supervisor": {"pid": 0, "mark": ""},
            "kafka": {"bootstrap": made.bootstrap},
            "services": listening,
            "ca": str(home.authority / "ca.crt"),
        }
    )
    if mint(home):
        say(f"there is no administrator yet: the token is in {home.path / 'enrolment.token'}")


def main(arguments: Sequence[str]) -> int:
    """Run one of the three; its exit status."""

    def say(line: str) -> None:
        sys.stderr.write(line + "\n")

    try:
        home = Home.open(Path(os.environ.get("LOOMOS_HOME") or default_home(os.environ)))
        match list(arguments):
            case ["keys", *brokers]:
                keys(home, brokers)
            case ["stores"]:
                stores(home, os.environ, say)
            case ["renew"]:
                renew(home)
            case _:
                raise Unusable("want `keys BROKER…`, `stores` or `renew`")
    except Unusable as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
