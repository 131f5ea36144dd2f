"""Signatures of masking sessions: by the key of an identity, which the fleet's CA has certified for its name."""

from __future__ import annotations

import time

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization as forms
from cryptography.hazmat.primitives.asymmetric import ec

from utils.errors import ForbiddenError
from utils.trust import pki

_ECDSA = ec.ECDSA(hashes.SHA256())
_LABEL = b"flockstep secagg 1 signature\0"  # the same key proves the connection, whose text begins otherwise
_ROLES = ("learner", "aggregator")


def identity_bytes(certificate: x509.Certificate) -> bytes:
    """What others know an identity by in a session: its certificate, DER."""
    return certificate.public_bytes(forms.Encoding.DER)


def sign(key: pki.Key, digest: bytes) -> bytes:
    """The signature of a digest of 32 bytes, DER."""
    return key.sign(_LABEL + digest, _ECDSA)


def check_signed(
    ca: x509.Certificate, identity: bytes, name: str, digest: bytes, signature: bytes, what: str
) -> pki.PublicKey:
    """The key of the learner `name`, which has signed; `what` says it for people.

    Raises ForbiddenError unless `identity` is its certificate now, `ca` has issued that, and its key has signed.
    """
    try:
        key = _key_of(ca, identity, name)
        key.verify(signature, _LABEL + digest, _ECDSA)
    except InvalidSignature:
        raise ForbiddenError(f"{what} of {name} is not signed by it") from None
    except ForbiddenError as error:
        raise ForbiddenError(f"{what} of {name} is not signed by it: {error}") from None
    return key


def _key_of(ca: x509.Certificate, identity: bytes, name: str) -> pki.PublicKey:
    try:
        certificate = x509.load_der_x509_certificate(identity)
        known, key = pki.identity_of(certificate, ca), certificate.public_key()
    except (*pki.UNREADABLE, ForbiddenError):
        raise ForbiddenError("its certificate is none of this fleet's CA") from None
    if (known.name, known.role in _ROLES) != (name, True) or not isinstance(key, pki.PublicKey):
        raise ForbiddenError(f"its certificate is that of {known.name} ({known.role})")
    if not certificate.not_valid_before_utc.timestamp() <= time.time() < pki.ends_at(certificate):
        raise ForbiddenError("its certificate has ended, or is of days to come")
    return key
