"""The certificate authority: whom a leaf names, how long it lives, what it refuses to sign."""

import datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from loom.kit import authority as authority_module
from loom.kit.authority import Authority


@pytest.fixture
def authority(tmp_path):
    return Authority.open(tmp_path / "authority")


def request_pem(key, name: str) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return request.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_root_key_is_founded_once_and_its_owners_alone(authority):
    again = Authority.open(authority.folder)
    assert again.certificate_pem == authority.certificate_pem
    assert (authority.folder / "ca.key").stat().st_mode & 0o777 == 0o600


def test_a_leaf_names_its_holder_and_lives_a_day(authority, tmp_path):
    authority.issue(tmp_path / "scheduler", "service", "scheduler")
    leaf = x509.load_pem_x509_certificate((tmp_path / "scheduler" / "tls.crt").read_bytes())
    leaf.verify_directly_issued_by(authority.certificate)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    assert uris == ["spiffe://loomos/service/scheduler"]
    assert leaf.subject.rfc4514_string() == "CN=scheduler,OU=service,O=loomos"
    left = leaf.not_valid_after_utc - datetime.datetime.now(datetime.UTC)
    assert left <= datetime.timedelta(hours=24)
    assert (tmp_path / "scheduler" / "tls.key").stat().st_mode & 0o777 == 0o600


def test_a_request_cannot_choose_its_own_name(authority):
    key = ec.generate_private_key(ec.SECP256R1())
    signed = authority.sign_csr(request_pem(key, "kafka"), "node", "node-local-a")
    leaf = x509.load_pem_x509_certificate(signed)
    assert leaf.subject.rfc4514_string() == "CN=node-local-a,OU=node,O=loomos"


def test_what_is_no_sound_request_is_refused(authority):
    weak = request_pem(rsa.generate_private_key(65537, 2048), "node")
    with pytest.raises(ValueError, match="P-256"):
        authority.sign_csr(weak, "node", "node-local-a")
    with pytest.raises(ValueError, match="not PEM"):
        authority.sign_csr(b"garbage", "node", "node-local-a")
    sound = request_pem(ec.generate_private_key(ec.SECP256R1()), "node")
    for name in ("", "a,OU=broker", "../x", "A", "x" * 200):
        with pytest.raises(ValueError, match="cannot stand in a certificate"):
            authority.sign_csr(sound, "node", name)


def test_a_leaf_is_renewed_from_half_its_life_on(authority, tmp_path, monkeypatch):
    folder = tmp_path / "scheduler"
    assert authority.renew_if_due(folder, "service", "scheduler")
    assert not authority.renew_if_due(folder, "service", "scheduler")
    later = authority_module.now() + datetime.timedelta(hours=12, minutes=1)
    monkeypatch.setattr(authority_module, "now", lambda: later)
    assert authority.renew_if_due(folder, "service", "scheduler")


def test_a_leaf_of_another_authority_is_replaced(authority, tmp_path):
    folder = tmp_path / "scheduler"
    Authority.open(tmp_path / "other").issue(folder, "service", "scheduler")
    assert authority.renew_if_due(folder, "service", "scheduler")
    assert (folder / "ca.crt").read_bytes() == authority.certificate_pem
