"""The platform's own certificate authority: P-256, leaves of 24 hours, one per process or node.

1. The root key is written once, mode 0600, and never leaves its folder.
2. A leaf names its holder by one URI, `spiffe://loomos/service/<name>` or `…/node/<id>`, and by a
   subject that Kafka maps to a principal; a request's own subject and names are ignored.
3. Files are replaced by rename, key before certificate: who loads between the two sees a pair that
   does not match, keeps what it has and loads again.
"""

import datetime
import ipaddress
import os
import re
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["LEAF_LIFE", "Authority", "key_of_request", "write_secret"]

LEAF_LIFE = datetime.timedelta(hours=24)
ROOT_LIFE = datetime.timedelta(days=3650)
# Kafka reads its key store at start only; the broker's leaf is issued anew at each start.
BROKER_LIFE = datetime.timedelta(days=365)
CLOCK_SKEW = datetime.timedelta(minutes=5)
IDENTITY = re.compile(r"[a-z0-9]([a-z0-9.-]{0,118}[a-z0-9])?")


def write_secret(path: Path, content: bytes | str) -> None:
    """Write a file that only its owner reads, by rename."""
    data = content.encode() if isinstance(content, str) else content
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
    scratch.replace(path)


class Authority:
    """The root key and what it signs; the folder holds `ca.key` and `ca.crt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        key_pem = (folder / "ca.key").read_bytes()
        key = serialization.load_pem_private_key(key_pem, None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self.key = key
        self.certificate_pem = (folder / "ca.crt").read_bytes()
        self.certificate = x509.load_pem_x509_certificate(self.certificate_pem)

    @classmethod
    def open(cls, folder: Path) -> "Authority":
        """The authority of this folder; founded at the first call."""
        if not (folder / "ca.crt").exists():
            found(folder)
        return cls(folder)

    def issue(
        self, folder: Path, kind: str, name: str, life: datetime.timedelta = LEAF_LIFE
    ) -> None:
        """Write a fresh leaf and key for a service, node or feed into its credentials folder."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.sign(key.public_key(), kind, name, life)
        write_secret(folder / "tls.key", private_pem(key))
        write_secret(folder / "tls.crt", leaf.public_bytes(serialization.Encoding.PEM))
        write_secret(folder / "ca.crt", self.certificate_pem)

    def renew_if_due(self, folder: Path, kind: str, name: str) -> bool:
        """Issue anew when the leaf is missing, foreign or past half its life."""
        try:
            leaf = x509.load_pem_x509_certificate((folder / "tls.crt").read_bytes())
            leaf.verify_directly_issued_by(self.certificate)
        except Exception:  # noqa: BLE001 - whatever is wrong with the old leaf, a new one mends it
            self.issue(folder, kind, name)
            return True
        if leaf.not_valid_after_utc - now() < LEAF_LIFE / 2:
            self.issue(folder, kind, name)
            return True
        return False

    def sign_csr(self, csr_pem: bytes, kind: str, name: str) -> bytes:
        """The leaf certificate, PEM, for a request whose key its sender proves to hold."""
        public = key_of_request(csr_pem)
        leaf = self.sign(public, kind, name, LEAF_LIFE)
        return leaf.public_bytes(serialization.Encoding.PEM)

    def broker_keystore(self, path: Path, name: str = "kafka") -> None:
        """Write the broker's key and certificate as Kafka reads them: one PEM file."""
        key = ec.generate_private_key(ec.SECP256R1())
        leaf = self.sign(key.public_key(), "broker", name, BROKER_LIFE)
        write_secret(path, private_pem(key) + leaf.public_bytes(serialization.Encoding.PEM))

    def sign(
        self, public: ec.EllipticCurvePublicKey, kind: str, name: str, life: datetime.timedelta
    ) -> x509.Certificate:
        """A leaf for this key; usable by both ends of a connection on this machine."""
        if not IDENTITY.fullmatch(name):
            raise ValueError(f"{kind} name {name!r} cannot stand in a certificate")
        # X.520 bounds a common name at 64 characters; the URI carries the whole name.
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "loomos"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, kind),
                x509.NameAttribute(NameOID.COMMON_NAME, name[:64]),
            ]
        )
        names = x509.SubjectAlternativeName(
            [
                x509.UniformResourceIdentifier(f"spiffe://loomos/{kind}/{name}"),
                # What gRPC clients ask for, so that no other leaf can answer in this one's place.
                x509.DNSName(f"{name}.{kind}.loomos"),
                x509.DNSName("localhost"),
                x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
            ]
        )
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.certificate.subject)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now() - CLOCK_SKEW)
            .not_valid_after(now() + life)
            .add_extension(names, critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(key_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()),
                critical=False,
            )
        )
        return builder.sign(self.key, hashes.SHA256())


def key_of_request(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The key in a signing request that its sender proves to hold; raises ValueError."""
    try:
        request = x509.load_pem_x509_csr(csr_pem)
    except ValueError as error:
        raise ValueError(f"certificate request is not PEM: {error}") from error
    public = request.public_key()
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
        raise ValueError("certificate request must carry a P-256 key")
    if not request.is_signature_valid:
        raise ValueError("certificate request is not signed by its own key")
    return public


def found(folder: Path) -> None:
    """Make the root key and its certificate."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "loomos"),
            x509.NameAttribute(NameOID.COMMON_NAME, "LoomOS root"),
        ]
    )
    root = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now() - CLOCK_SKEW)
        .not_valid_after(now() + ROOT_LIFE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    write_secret(folder / "ca.key", private_pem(key))
    write_secret(folder / "ca.crt", root.public_bytes(serialization.Encoding.PEM))


def key_usage(signs: bool) -> x509.KeyUsage:
    """What a key may do: the root signs certificates, a leaf signs handshakes."""
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key as PKCS #8, which Kafka and OpenSSL both read."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )


def now() -> datetime.datetime:
    """The clock that certificates go by."""
    return datetime.datetime.now(datetime.UTC)
