"""A self-signed certificate for the loopback address, made for one run of the transport benchmark."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

LOOPBACK = IPv4Address("127.0.0.1")


@dataclass(frozen=True)
class Certificate:
    """Key and certificate as PEM, and the files that they are in."""

    key_file: Path
    certificate_file: Path

    @property
    def key(self) -> bytes:
        """The private key, PEM."""
        return self.key_file.read_bytes()

    @property
    def certificate(self) -> bytes:
        """The certificate, PEM."""
        return self.certificate_file.read_bytes()

    @classmethod
    def within(cls, folder: Path) -> Certificate:
        """The one whose files `make_certificate` has put in `folder`."""
        return cls(folder / "key.pem", folder / "certificate.pem")


def make_certificate(folder: Path) -> Certificate:
    """A certificate for the loopback address that is its own authority (P-256, valid for a day), in `folder`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flockstep benchmark")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(LOOPBACK)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    made = Certificate.within(folder)
    made.key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    made.certificate_file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    return made
