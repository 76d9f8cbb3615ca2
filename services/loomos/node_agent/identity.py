"""Who this node is: a key made here, and the certificate that the authority gave for it.

1. The private key never leaves the credentials folder; only a signing request travels.
2. Key before certificate, each by rename: who loads between the two sees a pair that does not
   match, keeps what it has and loads again.
"""

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from loom.kit.authority import write_secret
from loom.kit.config import InvalidSetting

NODE = "spiffe://loomos/node/"


def signing_request(name: str) -> tuple[bytes, bytes]:
    """A fresh key and a request for its certificate, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    signed = request.sign(key, hashes.SHA256())
    return key_pem, signed.public_bytes(serialization.Encoding.PEM)


def store(folder: Path, key_pem: bytes, certificate_pem: str, authority_pem: str) -> None:
    """Puts a key and its certificate into the credentials folder."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    write_secret(folder / "ca.crt", authority_pem)
    write_secret(folder / "tls.key", key_pem)
    write_secret(folder / "tls.crt", certificate_pem)


def node_id(certificate: Path) -> str:
    """The node that the certificate names."""
    try:
        loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
        names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    except (OSError, ValueError, x509.ExtensionNotFound) as error:
        raise InvalidSetting(
            f"LOOMOS_CREDENTIALS: {certificate} is no node certificate ({error}): "
            "join first with `loomos node join`"
        ) from error
    if len(uris) != 1 or not uris[0].startswith(NODE):
        raise InvalidSetting(f"LOOMOS_CREDENTIALS: {certificate} names {uris}, not one node")
    return uris[0].removeprefix(NODE)


def renewal_due(certificate: Path) -> bool:
    """True from the half of the certificate's life on."""
    loaded = x509.load_pem_x509_certificate(certificate.read_bytes())
    begin, end = loaded.not_valid_before_utc, loaded.not_valid_after_utc
    return datetime.now(UTC) >= begin + (end - begin) / 2
