"""Preparing given stores: who gets a certificate; what is refused before anything is touched."""

from pathlib import Path

import pytest
from cryptography import x509

from loomos.embedded import provision
from loomos.embedded.home import Home
from loomos.embedded.services import ALL


def leaf(path: Path) -> x509.Certificate:
    text = path.read_text()
    return x509.load_pem_x509_certificate(text[text.index("-----BEGIN CERTIFICATE") :].encode())


def names(certificate: x509.Certificate) -> set[str]:
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return set(found.get_values_for_type(x509.DNSName))


def test_brokers_and_services_get_leaves_of_one_authority(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    provision.keys(home, ["kafka-1", "kafka-2"])
    root = leaf(home.authority / "ca.crt")
    for broker in ("kafka-1", "kafka-2"):
        found = leaf(home.path / "kafka" / f"{broker}.pem")
        found.verify_directly_issued_by(root)
        assert f"{broker}.broker.loomos" in names(found)
    for service in ALL:
        found = leaf(home.credentials / service / "tls.crt")
        found.verify_directly_issued_by(root)
        assert f"{service}.service.loomos" in names(found)


def test_keys_again_keep_the_authority_and_young_leaves(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "home")
    provision.keys(home, [])
    kept = [home.authority / "ca.crt", home.credentials / "scheduler" / "tls.crt"]
    before = [path.read_bytes() for path in kept]
    provision.keys(home, [])
    assert [path.read_bytes() for path in kept] == before


@pytest.mark.parametrize("arguments", [[], ["stores"], ["store"]])
def test_what_is_missing_is_one_line(
    arguments: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in ("LOOMOS_KAFKA", "LOOMOS_POSTGRES"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("LOOMOS_HOME", str(tmp_path / "home"))
    assert provision.main(arguments) == 1
    assert capsys.readouterr().err.count("\n") == 1
