"""The leader as certificate authority: it admits keys under names, and keeps who was admitted."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes
from typing import Any, Protocol

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from leader.config import TrustConfig
from leader.trust.callers import Caller
from leader.trust.state import IdentityEntry, Records, TokenEntry, TrustState
from protos import trust_pb2
from utils.errors import ConfigError, ForbiddenError, PayloadError
from utils.files import read_secret, replace_file
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.names import LEADER, Identity, is_name
from utils.trust.pki import PublicKey
from utils.trust.token import JoinToken, door_credentials, proves

BY_JWT = "jwt"
_SERVING = ("learner", "aggregator")  # roles of those that the leader may dial
_MOST_SERIALS = 8  # certificates of one identity that are admitted
_ADVICE = "make a new one: python -m leader.trust token"


class Record(Protocol):
    """Where what happens is written down."""

    def __call__(self, what: str, *, who: str = "", role: str = "", ip: str = "", **fields: Any) -> None: ...


class Claims(Protocol):
    """What a JWT that was verified says."""

    @property
    def name(self) -> str: ...
    @property
    def role(self) -> str: ...


@dataclass(frozen=True)
class Applicant:
    """Who is to be admitted: a key, and what it may be called."""

    name: str
    role: str
    key: PublicKey
    by: str  # how it comes here: "token ID", "jwt", "issued by NAME"
    serves: bool = False  # whether the leader may dial it


def _unrecorded(what: str, *, who: str = "", role: str = "", ip: str = "", **fields: Any) -> None:
    pass


class Authority:
    """The CA in a folder of trust, which many runs may share.

    Its methods may be called from any thread; those that change state wait for the disk.
    """

    def __init__(
        self,
        folder: Path,
        config: TrustConfig,
        record: Record = _unrecorded,
        *,
        make: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the folder, or `make` it; raises ConfigError."""
        self.folder = folder
        self._config = config
        self.record = record
        self.now = now
        passphrase = os.environ.get("FLOCKSTEP_TRUST_PASSPHRASE")
        self.state = TrustState(folder)
        self.made = False  # whether the CA was made just now
        try:
            self._open(passphrase, make)
        except OSError as error:
            raise ConfigError(
                f"{error.filename}: {error.strerror}; fix the folder or choose another"
            ) from error
        self.fleet = pki.fleet_of(self._key.public_key())

    def _open(self, passphrase: str | None, make: bool) -> None:
        path = self.folder / "ca.key"
        if not make and not path.exists():
            raise ConfigError(f"{self.folder}/ holds no CA; start the leader here first, or give --dir DIR")
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.state.locked():
            self.made = not path.exists()
            if self.made:
                self._make(path, passphrase)
        self._key = pki.key_from_pem(read_secret(path), str(path), passphrase)
        self.ca = pki.from_pem((self.folder / "ca.pem").read_bytes(), f"{self.folder}/ca.pem")
        self._door = (self.folder / "door").read_bytes()
        if self.ca.public_key() != self._key.public_key():
            raise ConfigError(f"{self.folder}/ca.pem is not of the key in {path}; put back the pair")

    def _make(self, path: Path, passphrase: str | None) -> None:
        """A new CA; its key is written last, so that what was begun is not taken for whole."""
        self.folder.chmod(0o700)
        key = pki.new_key()
        replace_file(self.folder / "ca.pem", pki.to_pem(pki.make_ca(key, self.now())))
        replace_file(self.folder / "door", token_bytes(16), mode=0o600)
        replace_file(path, pki.key_to_pem(key, passphrase), mode=0o600)

    def server_credentials(self) -> Credentials:
        """Of the leader's listener: a new key; the roots are the CA and the door of its join tokens.

        Raises ConfigError for a `trust.names` that no certificate can hold.
        """
        key = pki.new_key()
        names = [name.strip() for name in self._config.names.split(",") if name.strip()]
        try:
            certificate = pki.server_certificate(self.ca, self._key, key.public_key(), names)
        except ValueError as error:
            raise ConfigError(f"trust.names: {error}") from error
        roots = pki.to_pem(self.ca) + self.door()
        return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), roots)

    def door(self) -> bytes:
        """The certificate that opens TLS to whoever holds a join token; PEM."""
        certificate, _ = door_credentials(self._door)
        return pki.to_pem(certificate)

    def client_credentials(self) -> Credentials:
        """Of the leader where it dials learners: a new key, whose certificate has the role of leaders alone."""
        key, identity = pki.new_key(), Identity(self.fleet, LEADER, LEADER)
        certificate = pki.issue(
            self.ca, self._key, key.public_key(), identity, until=pki.ends_at(self.ca), now=self.now()
        )
        return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), pki.to_pem(self.ca))

    def new_token(self) -> JoinToken:
        """A token of this fleet, with which nobody can join until it is among the records."""
        return JoinToken.make(self._key.public_key(), self._door)

    def enrol(self, request: trust_pb2.EnrolRequest, ip: str = "") -> trust_pb2.Credential:
        """Admit the holder of a join token; the same key again gets the same identity, and uses nothing up.

        Raises ForbiddenError, PayloadError or CheckpointError.
        """
        key = pki.key_of_csr(request.csr)
        with self.state.edit() as records:
            token = self._token_of(records, request)
            digest = digest_of(key)
            if digest not in token.used:
                if token.uses and len(token.used) >= token.uses:
                    raise ForbiddenError(f"this token is used up; {_ADVICE}")
                token.used.append(digest)
            name = request.name or token.name or _name_of(records, digest) or f"{token.role}-{digest[:8]}"
            if token.name not in ("", name):
                raise ForbiddenError(
                    f"this token is for the name {token.name!r} alone; drop --name, or {_ADVICE}"
                )
            applicant = Applicant(name, token.role, key, f"token {request.token_id}", request.serves)
            credential = self._admit(records, applicant, token.replace)
        self._admitted("enrolled", applicant, ip)
        return credential

    def exchange(self, request: trust_pb2.EnrolRequest, claims: Claims, ip: str = "") -> trust_pb2.Credential:
        """A certificate for a JWT that was verified.

        Its issuer says who bears the name, so a new key takes the place of the one that came by a JWT before.
        Raises ForbiddenError, PayloadError or CheckpointError.
        """
        if request.name not in ("", claims.name):
            raise ForbiddenError(f"this JWT is for the name {claims.name!r}; drop --name")
        applicant = Applicant(claims.name, claims.role, pki.key_of_csr(request.csr), BY_JWT, request.serves)
        with self.state.edit() as records:
            known = records.identities.get(claims.name)
            credential = self._admit(records, applicant, known is not None and known.by == BY_JWT)
        self._admitted("enrolled", applicant, ip)
        return credential

    def renew(self, request: trust_pb2.RenewRequest, caller: Caller) -> trust_pb2.Credential:
        """A new certificate for a caller that has an identity of this CA, and for a new key if it sends one.

        Raises ForbiddenError, PayloadError or CheckpointError.
        """
        key = pki.key_of_csr(request.csr)
        with self.state.edit() as records:
            entry = records.identities.get(caller.name)
            if entry is None or entry.role != caller.role:
                raise ForbiddenError("only an identity of this leader's own CA can be renewed")
            entry.key_sha256 = digest_of(key)  # certificates of the old key are admitted until they end
            applicant = Applicant(caller.name, caller.role, key, entry.by, request.serves)
            credential = self._admit(records, applicant)
        self._admitted("renewed", applicant, caller.address)
        return credential

    def issue(
        self, applicant: Applicant, *, hours: float = 0.0, replace: bool = False
    ) -> trust_pb2.Credential:
        """A certificate without a token, for `hours`, else as long as any.

        Raises ForbiddenError, PayloadError or CheckpointError.
        """
        with self.state.edit() as records:
            credential = self._admit(records, applicant, replace, hours)
        self._admitted("issued", applicant)
        return credential

    def _token_of(self, records: Records, request: trust_pb2.EnrolRequest) -> TokenEntry:
        """The token that a request proves to hold."""
        token = records.tokens.get(request.token_id)
        if token is None:
            raise ForbiddenError(f"this leader has no such token, or it was revoked; {_ADVICE}")
        public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes.fromhex(token.key))
        if not proves(public, pki.spki(self._key.public_key()), request.csr, request.proof):
            raise ForbiddenError("the proof that you hold this token is wrong; join again with --join TOKEN")
        if token.until <= self.now():
            raise ForbiddenError(f"this token has ended; {_ADVICE}")
        return token

    def _admit(
        self, records: Records, applicant: Applicant, replace: bool = False, hours: float = 0.0
    ) -> trust_pb2.Credential:
        """Write the applicant into `records`, if its name is free for it, and certify it."""
        entry = _entry_for(records, applicant, replace)
        now = self.now()
        life_h = self._config.cert_hours
        if applicant.by == BY_JWT:
            life_h = min(life_h, self._config.jwt_cert_hours)
        certificate = pki.issue(
            self.ca,
            self._key,
            applicant.key,
            Identity(self.fleet, applicant.role, applicant.name),
            until=now + 3600 * (hours or life_h),
            now=now,
            serves=applicant.serves and applicant.role in _SERVING,
        )
        entry.serials = [*entry.serials, f"{certificate.serial_number:x}"][-_MOST_SERIALS:]
        entry.until, entry.since, entry.by = pki.ends_at(certificate), entry.since or now, applicant.by
        records.identities[applicant.name] = entry
        return trust_pb2.Credential(
            certificate=certificate.public_bytes(Encoding.DER),
            roots=[self.ca.public_bytes(Encoding.DER)],
            name=applicant.name,
            role=applicant.role,
            fleet=self.fleet,
            renew_at=int((now + entry.until) / 2),
        )

    def _admitted(self, what: str, applicant: Applicant, ip: str = "") -> None:
        digest = digest_of(applicant.key)
        self.record(what, who=applicant.name, role=applicant.role, ip=ip, by=applicant.by, key=digest)


def digest_of(key: PublicKey) -> str:
    """SHA-256 of a key's SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(pki.spki(key)).hexdigest()


def _name_of(records: Records, digest: str) -> str:
    """The name of the identity that has the key of this digest, or ""."""
    return next((name for name, entry in records.identities.items() if entry.key_sha256 == digest), "")


def _entry_for(records: Records, applicant: Applicant, replace: bool) -> IdentityEntry:
    """The entry of an applicant, a new one where it has none or takes the place of another key or role."""
    name = applicant.name
    if not is_name(name):
        raise PayloadError(f"name {name[:64]!r} is not 1 to 64 of letters, digits, '.', '_' and '-'")
    records.check_name(name)
    digest = digest_of(applicant.key)
    owner = _name_of(records, digest)
    if owner not in ("", name):
        raise ForbiddenError(f"this key is that of {owner!r} already; come as {owner!r}, or with a new key")
    known = records.identities.get(name)
    if known is not None and (known.key_sha256, known.role) == (digest, applicant.role):
        return known
    if known is not None and not replace:
        raise ForbiddenError(
            f"the name {name!r} is another key's; choose another --name, or there: "
            f"python -m leader.trust token --name {name} --replace"
        )
    return IdentityEntry(role=applicant.role, key_sha256=digest)
