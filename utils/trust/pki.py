"""Keys and certificates: a fleet's CA, what it issues, and what is believed of a certificate or a request.

All keys are P-256. Times are unix seconds. TLS proves that the other end holds a certificate's key; whose it is
must be asked of `identity_of`, since TLS also lets a chain through that an intermediate signed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Use
from cryptography.x509.oid import NameOID

from utils.errors import ConfigError, ForbiddenError
from utils.trust.names import EDGE, EDGE_TLS_NAME, LEADER, TLS_NAME, Identity, learner_tls_name

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey
Span = tuple[float, float]  # from, until

CA_S = 10 * 365 * 86400.0
SKEW_S = 300.0  # certificates begin this much in the past, for clocks that are behind
_FOR_EVER: Span = (1577836800.0, 4070908800.0)  # 2020 to 2099

UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion)


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
    return _ca(key.public_key(), (now - SKEW_S, now + CA_S), key)


def anchor(ca_key: PublicKey) -> x509.Certificate:
    """A root that stands for a CA of which only the key is known, as a join token tells it.

    A trust anchor is a name and a key (RFC 5280, 6.1.1); the signature on it is of a key that is thrown away.
    """
    return _ca(ca_key, _FOR_EVER, new_key())


def door_certificate(key: Key) -> x509.Certificate:
    """The certificate of a door's key, the same bits each time, so that both ends can make it themselves.

    It is no CA and its key signs no certificates, so as a trust anchor it lets in nothing but itself.
    """
    public = key.public_key()
    name = f"door {hashlib.sha256(spki(public)).hexdigest()[:10]}"
    return _sign(name, public, _FOR_EVER, None, key, [x509.ExtendedKeyUsage([Use.CLIENT_AUTH])], serial=1)


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
        serves: whether it may also serve, under `learner_tls_name`, so that the leader can dial it; as an edge under
            `EDGE_TLS_NAME` too.
    """
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(identity.uri)]
    uses = [Use.CLIENT_AUTH]
    if serves:
        served = [learner_tls_name(identity.name), *([EDGE_TLS_NAME] if identity.role == EDGE else [])]
        names += map(x509.DNSName, served)
        uses.append(Use.SERVER_AUTH)
    span = (now - SKEW_S, min(until, ends_at(ca)))
    return _sign(identity.role, public_key, span, ca.subject, ca_key, _leaf(ca_key, names, uses))


def serves(certificate: x509.Certificate) -> bool:
    """Whether the leader may dial the holder of a certificate."""
    uses = [extension.value for extension in certificate.extensions]
    return any(isinstance(use, x509.ExtendedKeyUsage) and Use.SERVER_AUTH in use for use in uses)


def server_certificate(
    ca: x509.Certificate,
    ca_key: Key,
    public_key: PublicKey,
    names: Iterable[str] = (),
    until: float = math.inf,
) -> x509.Certificate:
    """The certificate of a listener, the leader's own or its gateway's; at the longest as long as the CA.

    Args:
        names: DNS names and addresses beside `TLS_NAME` and `EDGE_TLS_NAME`, for clients that check the one that they
            dialled.
    """
    span = (ca.not_valid_before_utc.timestamp(), min(until, ends_at(ca)))
    served = [_general_name(name) for name in (TLS_NAME, EDGE_TLS_NAME, *names)]
    extensions = _leaf(ca_key, served, [Use.SERVER_AUTH])
    return _sign(LEADER, public_key, span, ca.subject, ca_key, extensions)


def ends_at(certificate: x509.Certificate) -> float:
    """When a certificate ends."""
    return certificate.not_valid_after_utc.timestamp()


def half_of(certificate: x509.Certificate) -> float:
    """When half of a certificate's life is over."""
    return (certificate.not_valid_before_utc.timestamp() + ends_at(certificate)) / 2


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
        if identity.fleet != fleet:
            raise ValueError(f"it is one of {identity.fleet}")
    except (*UNREADABLE, InvalidSignature, x509.ExtensionNotFound) as error:
        raise ForbiddenError(f"this certificate is not an identity of {fleet}; join with a token") from error
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
        if not request.is_signature_valid:
            raise ValueError("signed with another key")
    except UNREADABLE as error:
        raise ForbiddenError(f"the certificate request is not one by its own P-256 key: {error}") from error
    return key


def to_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(forms.Encoding.PEM)


def from_pem(pem: bytes, where: str = "certificate") -> x509.Certificate:
    """The first certificate of a PEM text; ConfigError, which names `where`, if there is none."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except UNREADABLE as error:
        raise ConfigError(f"{where} is not a certificate in PEM: {error}") from error


def key_to_pem(key: Key, passphrase: str | None = None) -> bytes:
    """A private key as PKCS#8, encrypted if there is a passphrase."""
    sealed = forms.BestAvailableEncryption(passphrase.encode()) if passphrase else forms.NoEncryption()
    return key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.PKCS8, sealed)


def key_from_pem(pem: bytes, where: str = "key", passphrase: str | None = None) -> Key:
    """A private key; ConfigError, which names `where`, if it is damaged, of another kind, or sealed otherwise."""
    try:
        key = forms.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
    except UNREADABLE as error:
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


def _ca(key: PublicKey, span: Span, signer: Key) -> x509.Certificate:
    known_by = x509.SubjectKeyIdentifier.from_public_key(key)
    return _sign(f"CA {fleet_of(key)}", key, span, None, signer, [known_by], ca=True)


def _leaf(
    ca_key: Key, names: list[x509.GeneralName], uses: list[x509.ObjectIdentifier]
) -> list[x509.ExtensionType]:
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key())
    return [x509.ExtendedKeyUsage(uses), x509.SubjectAlternativeName(names), issuer]


def _sign(
    name: str,
    key: PublicKey,
    span: Span,
    issuer: x509.Name | None,  # None = itself
    signer: Key,
    extensions: Sequence[x509.ExtensionType],
    *,
    ca: bool = False,
    serial: int = 0,
) -> x509.Certificate:
    # The subject has a space, so that no client that looks for a host name there can find one.
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"flockstep {name}")])
    builder = x509.CertificateBuilder(issuer or subject, subject, key, serial or x509.random_serial_number())
    builder = builder.not_valid_before(datetime.fromtimestamp(span[0], UTC))
    builder = builder.not_valid_after(datetime.fromtimestamp(span[1], UTC))
    builder = builder.add_extension(x509.BasicConstraints(ca, path_length=0 if ca else None), critical=True)
    usage = x509.KeyUsage(
        not ca, False, False, False, False, ca, ca, False, False
    )  # signs data; certificates
    builder = builder.add_extension(usage, critical=True)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    return builder.sign(signer, hashes.SHA256(), ecdsa_deterministic=True)
