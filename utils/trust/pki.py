"""Keys and certificates: a fleet's CA, what it issues, and what is believed of a certificate or a request.

All keys are P-256. Times are unix seconds. TLS proves that the other end holds a certificate's key; whose it is
must be asked of `identity_of`, since TLS also lets a chain through that an intermediate signed.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Use
from cryptography.x509.oid import NameOID

from utils.errors import ConfigError, ForbiddenError
from utils.trust.names import TLS_NAME, Identity, learner_tls_name

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

CA_S = 10 * 365 * 86400.0
SKEW_S = 300.0  # certificates begin this much in the past, for clocks that are behind

_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def spki(key: PublicKey) -> bytes:
    """A public key as SubjectPublicKeyInfo, DER."""
    return key.public_bytes(forms.Encoding.DER, forms.PublicFormat.SubjectPublicKeyInfo)


def fleet_of(ca_key: PublicKey) -> str:
    """16 hex digits that tell a CA's key from all others, and so the fleet that trusts it."""
    return hashlib.sha256(spki(ca_key)).hexdigest()[:16]


def make_ca(key: Key, now: float) -> x509.Certificate:
    """The self-signed certificate of a fleet's CA."""
    return _ca(key.public_key(), now - SKEW_S, now + CA_S).sign(key, hashes.SHA256())


def anchor(ca_key: PublicKey) -> x509.Certificate:
    """A root that stands for a CA of which only the key is known, as a join token tells it.

    A trust anchor is a name and a key (RFC 5280, 6.1.1); the signature on it is of a key that is thrown away.
    """
    return _ca(ca_key, 0, datetime(2099, 1, 1, tzinfo=UTC).timestamp()).sign(new_key(), hashes.SHA256())


def door_certificate(key: Key) -> x509.Certificate:
    """The certificate of a door's key, the same bits each time, so that both ends can make it themselves.

    It is no CA, so as a trust anchor it lets in nothing but itself.
    """
    subject = _called("flockstep door " + hashlib.sha256(spki(key.public_key())).hexdigest()[:10])
    starts, ends = (datetime(year, 1, 1, tzinfo=UTC).timestamp() for year in (2020, 2099))
    builder = _builder(subject, subject, key.public_key(), starts, ends).serial_number(1)
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([Use.CLIENT_AUTH]), critical=False)
    return builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)


def issue(
    ca: x509.Certificate,
    ca_key: Key,
    public_key: PublicKey,
    identity: Identity,
    *,
    until: float,
    now: float,
    serves: bool = False,
) -> x509.Certificate:
    """A certificate by which the holder of a key is `identity`, at the longest as long as the CA.

    Args:
        serves: whether it may also serve, under `learner_tls_name`, so that the leader can dial it.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    uses = [Use.CLIENT_AUTH]
    if serves:
        names.append(x509.DNSName(learner_tls_name(identity.name)))
        uses.append(Use.SERVER_AUTH)
    leaf = _leaf(ca, public_key, identity.role, names, uses, (now - SKEW_S, min(until, ends_at(ca))))
    return leaf.sign(ca_key, hashes.SHA256())


def server_certificate(
    ca: x509.Certificate, ca_key: Key, public_key: PublicKey, names: Iterable[str] = ()
) -> x509.Certificate:
    """The certificate of the leader's own listener, as long as the CA.

    Args:
        names: DNS names and addresses beside `TLS_NAME`, for clients that check the one that they dialled.
    """
    starts = ca.not_valid_before_utc.timestamp()
    all_names = [_general_name(name) for name in (TLS_NAME, *names)]
    leaf = _leaf(ca, public_key, "leader", all_names, [Use.SERVER_AUTH], (starts, ends_at(ca)))
    return leaf.sign(ca_key, hashes.SHA256())


def ends_at(certificate: x509.Certificate) -> float:
    """When a certificate ends."""
    return certificate.not_valid_after_utc.timestamp()


def identity_of(certificate: x509.Certificate, ca: x509.Certificate) -> Identity:
    """Whom a certificate speaks for; its end is not looked at.

    Raises:
        ForbiddenError: the CA did not issue it itself, or not for an identity of its own fleet.
    """
    fleet = fleet_of(_p256(ca.public_key()))
    try:
        certificate.verify_directly_issued_by(ca)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        identity = Identity.parse(uri)
    except (*_UNREADABLE, InvalidSignature, x509.ExtensionNotFound) as error:
        raise ForbiddenError(f"this certificate is not an identity of {fleet}; join with a token") from error
    if identity.fleet != fleet:
        raise ForbiddenError(
            f"this certificate is one of {identity.fleet}, not of {fleet}; join with a token"
        )
    return identity


def make_csr(key: Key) -> bytes:
    """A certificate request (PKCS#10, DER) that says nothing but that its sender holds `key`."""
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return request.sign(key, hashes.SHA256()).public_bytes(forms.Encoding.DER)


def key_of_csr(der: bytes) -> PublicKey:
    """The key of a certificate request, all of it that counts.

    Raises:
        ForbiddenError: it is damaged, not signed with its own key, or that is not a P-256 key.
    """
    try:
        request = x509.load_der_x509_csr(der)
        key = _p256(request.public_key())
        signed = request.is_signature_valid
    except _UNREADABLE as error:
        raise ForbiddenError(
            f"the certificate request can't be used: {error}; it needs a P-256 key"
        ) from error
    if not signed:
        raise ForbiddenError("the certificate request is not signed with its own key")
    return key


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(forms.Encoding.PEM)


def from_pem(pem: bytes, where: str = "certificate") -> x509.Certificate:
    """The first certificate of a PEM text; ConfigError, which names `where`, if there is none."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except _UNREADABLE as error:
        raise ConfigError(f"{where} is not a certificate in PEM: {error}") from error


def key_to_pem(key: Key, passphrase: str | None = None) -> bytes:
    """A private key as PKCS#8, encrypted if there is a passphrase."""
    sealed: forms.KeySerializationEncryption = forms.NoEncryption()
    if passphrase:
        sealed = forms.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, sealed)


def key_from_pem(pem: bytes, where: str = "key", passphrase: str | None = None) -> Key:
    """A private key; ConfigError, which names `where`, if it is damaged, of another kind, or sealed otherwise."""
    try:
        key = forms.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except _UNREADABLE as error:
        raise ConfigError(f"{where} can't be read; is its passphrase right? {error}") from error
    if not isinstance(key, Key) or not isinstance(key.curve, ec.SECP256R1):
        raise ConfigError(f"{where} is not a P-256 key")
    return key


def _p256(key: object) -> PublicKey:
    if not isinstance(key, PublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("its key is of another kind")
    return key


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _called(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _ca(key: PublicKey, starts: float, ends: float) -> x509.CertificateBuilder:
    subject = _called("flockstep CA " + fleet_of(key))
    return (
        _builder(subject, subject, key, starts, ends)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _leaf(
    ca: x509.Certificate,
    key: PublicKey,
    role: str,
    names: list[x509.GeneralName],
    uses: list[x509.ObjectIdentifier],
    span: tuple[float, float],
) -> x509.CertificateBuilder:
    # The subject has a space, so that no client that looks for a host name there can find one.
    key_of_ca = x509.AuthorityKeyIdentifier.from_issuer_public_key(_p256(ca.public_key()))
    return (
        _builder(_called(f"flockstep {role}"), ca.subject, key, *span)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(key_of_ca, critical=False)
    )


def _builder(
    subject: x509.Name, issuer: x509.Name, key: PublicKey, starts: float, ends: float
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder(issuer, subject, key)
    builder = builder.not_valid_before(datetime.fromtimestamp(starts, UTC))
    return builder.not_valid_after(datetime.fromtimestamp(ends, UTC))


def _usage(signs_certificates: bool) -> x509.KeyUsage:
    signs = signs_certificates
    return x509.KeyUsage(not signs, False, False, False, False, signs, signs, False, False)
