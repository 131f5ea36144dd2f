"""The line that lets somebody join: which CA is the leader's, a door through its TLS, and a secret to prove.

The secret never travels: what does is a signature by the key derived from it over the CA and the request.
"""

from __future__ import annotations

import base64
import hashlib
import secrets
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from utils.errors import ForbiddenError
from utils.trust.pki import Key, PublicKey, door_certificate, spki

PREFIX = "flk1_"  # also what scanners for leaked secrets look for
CHARACTERS = 97
_ALGORITHM = ec.ECDSA(hashes.SHA256())
_VERSION = b"\x01"
_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256


@dataclass(frozen=True)
class JoinToken:
    """A join token; `text` is a secret."""

    ca_key: bytes  # compressed point, 33 bytes
    door: bytes = field(repr=False)  # 16 bytes, the same in all tokens of a fleet
    secret: bytes = field(repr=False)  # 16 bytes

    @classmethod
    def make(cls, ca_key: PublicKey, door: bytes) -> JoinToken:
        """A new token of the fleet with this CA key and door."""
        point = ca_key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
        return cls(point, door, secrets.token_bytes(16))

    @property
    def text(self) -> str:
        body = _VERSION + self.ca_key + self.door + self.secret
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode()

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The token in a text, which may have white space around it; ForbiddenError if it is damaged."""
        damaged = ForbiddenError(
            f"the join token is damaged: copy it whole, {CHARACTERS} characters that begin with {PREFIX}"
        )
        text = text.strip()
        if len(text) != CHARACTERS or not text.startswith(PREFIX):
            raise damaged
        try:
            raw = base64.b64decode(text.removeprefix(PREFIX), altchars=b"-_", validate=True)
            token = cls(raw[1:34], raw[34:50], raw[50:66])
            token.ca_public_key()
        except ValueError as error:
            raise damaged from error
        if raw[:1] != _VERSION or raw[66:] != _checksum(raw[:66]):
            raise damaged
        return token

    @property
    def token_id(self) -> str:
        """10 hex digits by which the leader tells its tokens apart."""
        return hashlib.sha256(spki(self.key().public_key())).hexdigest()[:10]

    def ca_public_key(self) -> PublicKey:
        """The key of the CA that the token's holder may trust."""
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), self.ca_key)

    def key(self) -> Key:
        """The private key that the secret stands for; the leader keeps its public half alone."""
        return _derive(self.secret, b"flockstep v1 token")

    def prove(self, csr: bytes) -> bytes:
        """That the sender of a certificate request (DER) holds this token, told to its CA alone."""
        return self.key().sign(_statement(spki(self.ca_public_key()), csr), _ALGORITHM)


def proves(key: PublicKey, ca_spki: bytes, csr: bytes, proof: bytes) -> bool:
    """Whether `proof` was made with the token of public key `key`, for this CA and this request."""
    try:
        key.verify(proof, _statement(ca_spki, csr), _ALGORITHM)
    except InvalidSignature:
        return False
    return True


def door_credentials(door: bytes) -> tuple[x509.Certificate, Key]:
    """The certificate and key with which a token's holder passes TLS, to enrol and nothing else."""
    key = _derive(door, b"flockstep v1 door")
    return door_certificate(key), key


def _derive(secret: bytes, info: bytes) -> Key:
    material = HKDF(hashes.SHA256(), 48, salt=None, info=info).derive(secret)
    return ec.derive_private_key(int.from_bytes(material) % (_ORDER - 1) + 1, ec.SECP256R1())


def _statement(ca_spki: bytes, csr: bytes) -> bytes:
    return b"flockstep enrol v1\0" + hashlib.sha256(ca_spki).digest() + csr


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:3]
