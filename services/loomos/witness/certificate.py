"""A certificate that a witness makes for itself, for who pins it instead of asking an authority."""

import datetime
import ipaddress
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loom.kit.authority import write_secret

__all__ = ["self_signed"]

LIFE = datetime.timedelta(days=3650)
SKEW = datetime.timedelta(minutes=5)


def self_signed(folder: Path, host: str) -> tuple[Path, Path]:
    """The paths of a certificate for this host and of its key, made at the first call."""
    certificate, key = folder / "tls.crt", folder / "tls.key"
    if not certificate.exists():
        private = ec.generate_private_key(ec.SECP256R1())
        write_secret(key, pem_of(private))
        certificate.write_bytes(signed(private, host).public_bytes(serialization.Encoding.PEM))
    return certificate, key


def signed(private: ec.EllipticCurvePrivateKey, host: str) -> x509.Certificate:
    """The certificate of a key, signed by itself."""
    now = datetime.datetime.now(datetime.UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    try:
        place: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        place = x509.DNSName(host)
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + LIFE)
        .add_extension(x509.SubjectAlternativeName([place]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(identifier, critical=False)
        .sign(private, hashes.SHA256())
    )


def pem_of(private: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as a file holds it."""
    return private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
