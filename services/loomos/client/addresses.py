"""Where the gateway is, whom to trust for it, and which service answers at a path."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from loom.kit.config import supervised
from loomos.client.profile import Refused

__all__ = ["located", "secured", "segment", "service_at", "trust"]


def segment(value: str) -> str:
    """A value as one segment of a path."""
    return quote(value, safe="")


def located(home: Path, environ: Mapping[str, str]) -> tuple[str, Path]:
    """The gateway's address and the authority to trust for it."""
    gateway, ca = environ.get("LOOMOS_GATEWAY", ""), environ.get("LOOMOS_CA", "")
    if not gateway or not ca:
        state = supervised(home)
        gateway, ca = gateway or state.get("gateway", ""), ca or state.get("ca", "")
    if not gateway or not ca:
        told = f"no gateway runs in {home}: `loomos up`, or set LOOMOS_GATEWAY and LOOMOS_CA"
        raise Refused(0, "UNAVAILABLE", told)
    return secured(gateway), Path(ca)


def secured(gateway: str) -> str:
    """The address of a gateway that is spoken to under TLS; raises Refused."""
    if not gateway.startswith("https://"):
        raise Refused(0, "INVALID_ARGUMENT", f"the gateway is {gateway!r}: want https://…")
    return gateway.rstrip("/")


def trust(ca: Path) -> ssl.SSLContext:
    """TLS that believes this authority and no other."""
    try:
        return ssl.create_default_context(cafile=str(ca))
    except OSError as error:
        told = f"LOOMOS_CA: {ca} is no certificate authority ({error})"
        raise Refused(0, "INVALID_ARGUMENT", told) from error


def service_at(path: str) -> str:
    """The service that answers queries at a path, as the contracts declare; "" for none."""
    # Slow to import, and only needed by who has written something.
    from loom.catalogue import contracts
    from loom.kit.descriptors import contract_of, http_rule

    asked = path.strip("/").split("/")
    found: list[tuple[int, str]] = []
    for file in contracts():
        for service in file.services_by_name.values():
            for method in service.methods:
                rule = http_rule(method)
                declared = rule.get.strip("/").split("/") if rule is not None and rule.get else []
                if len(declared) == len(asked) and all(
                    want[:1] == "{" or want == have
                    for want, have in zip(declared, asked, strict=True)
                ):
                    literal = sum(want[:1] != "{" for want in declared)
                    found.append((literal, contract_of(service).name))
    return max(found)[1] if found else ""
