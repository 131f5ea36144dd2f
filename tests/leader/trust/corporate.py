"""A PKI of somebody's own: a CA that knows nothing of this project, and the files that it writes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from utils.trust import pki

SERVER_NAME = "fl.corp.example"


class Corporation:
    """A CA, and certificates with a common name, URIs and DNS names."""

    def __init__(self, name: str = "Corporate CA") -> None:
        self._name = _called(name)
        self._key = pki.new_key()
        builder = self._builder(self._name, self._key.public_key())
        self.ca = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
            self._key, hashes.SHA256()
        )

    def leaf(
        self, name: str, uris: tuple[str, ...] = (), dns: tuple[str, ...] = ()
    ) -> tuple[x509.Certificate, pki.Key]:
        """A certificate and its key."""
        key = pki.new_key()
        builder = self._builder(_called(name), key.public_key())
        uses = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        names = [*map(x509.UniformResourceIdentifier, uris), *map(x509.DNSName, dns)]
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self._key, hashes.SHA256()), key

    def _builder(self, subject: x509.Name, key: pki.PublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    def write(self, folder: Path, name: str, uris: tuple[str, ...] = (), dns: tuple[str, ...] = ()) -> None:
        """NAME.pem, NAME.key and ca.pem in a folder."""
        certificate, key = self.leaf(name, uris, dns)
        folder.mkdir(exist_ok=True)
        for file, content in (
            ("ca.pem", pki.to_pem(self.ca)),
            (f"{name}.pem", pki.to_pem(certificate)),
            (f"{name}.key", pki.key_to_pem(key)),
        ):
            partial = folder / "partial"
            partial.write_bytes(content)
            partial.replace(folder / file)


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
