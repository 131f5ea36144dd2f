"""The leader as certificate authority: it admits keys under names, and keeps who was admitted."""

from __future__ import annotations

import hashlib
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_bytes

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from leader.condition import never
from leader.config import TrustConfig
from leader.trust.identities.bearer import Claims
from leader.trust.identities.callers import Caller, read_records
from leader.trust.identities.state import BY_JWT, IdentityEntry, Records, TokenEntry, TrustState
from protos import trust_pb2
from utils.errors import ConfigError, ForbiddenError
from utils.files import read_secret, replace_file
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.names import LEADER, Identity
from utils.trust.pki import PublicKey
from utils.trust.token import JoinToken, door_credentials, proves

_SEALED = "FLOCKSTEP_TRUST_PASSPHRASE"  # what the CA's key is encrypted with, if it is set
_SERVING = ("learner", "aggregator")  # roles of those that the leader may dial
_MOST_SERIALS = 8  # certificates of one identity that are admitted
_ADVICE = "make a new one: python -m leader.trust token"

#: Writes down what happened, and `who`, with which `role` and from which `ip`, did it.
Record = Callable[..., None]


@dataclass(frozen=True)
class Applicant:
    """Who is to be admitted: a key, and what it may be called."""

    name: str
    role: str
    key: PublicKey
    by: str  # how it comes here: "token ID", "jwt", "issued by NAME"
    serves: bool = False  # whether the leader may dial it
    replace: bool = False  # whether the name may be another key's by now
    hours: float = 0.0  # life of its certificate; 0 = as configured


class Authority:
    """The CA in a folder of trust, which many runs may share; an Issuer, of those whom `state` knows.

    Its methods may be called from any thread; those that change state wait for the disk.
    """

    renewed = staticmethod(never)  # its own certificate lasts

    def __init__(
        self,
        folder: Path,
        config: TrustConfig,
        record: Record = lambda what, **more: None,
        *,
        make: bool = True,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Open the folder, or `make` it; raises ConfigError."""
        self.folder = folder
        self.state = TrustState(folder)
        self.record, self.now = record, now
        self._config = config
        try:
            self.made = self._make() if make else False  # whether there was no CA until now
            self._open(folder / "ca.key")
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; is this the leader's folder?") from error
        self.fleet = pki.fleet_of(self._key.public_key())

    def _open(self, path: Path) -> None:
        self._key = pki.key_from_pem(read_secret(path), str(path), os.environ.get(_SEALED))
        self._door = (self.folder / "door").read_bytes()
        self.door = pki.to_pem(door_credentials(self._door)[0])
        self.ca = pki.from_pem((self.folder / "ca.pem").read_bytes(), f"{self.folder}/ca.pem")
        if self.ca.public_key() != self._key.public_key():
            raise ConfigError(f"{self.folder}/ca.pem is not of the key in {path}; put back the pair")

    def _make(self) -> bool:
        """Make a CA unless there is one. Its key is written last, so that one half made is not taken for whole."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self.state.locked():
            if (self.folder / "ca.key").exists():
                return False
            self.folder.chmod(0o700)
            key = pki.new_key()
            replace_file(self.folder / "ca.pem", pki.to_pem(pki.make_ca(key, self.now())))
            replace_file(self.folder / "door", token_bytes(16), mode=0o600)
            replace_file(self.folder / "ca.key", pki.key_to_pem(key, os.environ.get(_SEALED)), mode=0o600)
            return True

    def server_credentials(self, names: Sequence[str] | None = None, hours: float = 0.0) -> Credentials:
        """Of a listener: a new key; the roots are the CA and the door of its join tokens.

        Args:
            names: DNS names and addresses beside `TLS_NAME`; the leader's own are those of `trust.names`.
            hours: life of the certificate; 0 = that of the CA, for a key that is in memory alone.

        Raises ConfigError for a name that no certificate can hold.
        """
        key, until, said = pki.new_key(), self.now() + 3600 * hours if hours else math.inf, "--dns"
        if names is None:
            names = [name.strip() for name in self._config.names.split(",") if name.strip()]
            said = "trust.names"
        try:
            certificate = pki.server_certificate(self.ca, self._key, key.public_key(), names, until)
        except ValueError as error:
            raise ConfigError(f"{said}: {error}") from error
        roots = pki.to_pem(self.ca) + self.door
        return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), roots)

    def holder(self, certificate: x509.Certificate) -> tuple[str, str]:
        """See Issuer."""
        identity = pki.identity_of(certificate, self.ca)
        return identity.name, identity.role

    def check(self, caller: Caller) -> None:
        """See Issuer; raises NotReadyError where the state can't be read."""
        read_records(self.state).check_shown(caller.name, caller.role, caller.serial)

    def client_credentials(self) -> Credentials:
        """Of the leader where it dials learners: a new key, whose certificate has the role of leaders alone."""
        key, identity = pki.new_key(), Identity(self.fleet, LEADER, LEADER)
        until = pki.ends_at(self.ca)
        certificate = pki.issue(self.ca, self._key, key.public_key(), identity, until=until, now=self.now())
        return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), pki.to_pem(self.ca))

    def new_token(self) -> JoinToken:
        """A token of this fleet, with which nobody can join until it is among the records."""
        return JoinToken.make(self._key.public_key(), self._door)

    def enrol(self, request: trust_pb2.EnrolRequest, ip: str = "") -> trust_pb2.Credential:
        """Admit the holder of a join token; the same key again gets the same identity, and uses nothing up.

        Raises ForbiddenError, PayloadError or CheckpointError.
        """
        key = pki.key_of_csr(request.csr)

        def applicant(records: Records) -> Applicant:
            token, digest = self._token_of(records, request), digest_of(key)
            if request.role not in ("", token.role):
                raise ForbiddenError(f"this token is for role {token.role} alone; {_ADVICE} --role ROLE")
            owner = _name_of(records, digest)
            if not owner or digest not in token.used:  # a key that was renewed away or forgotten comes anew
                if token.uses and len(token.used) >= token.uses:
                    raise ForbiddenError(f"this token is used up; {_ADVICE}")
                token.used.append(digest)
            name = request.name or token.name or owner or f"{token.role}-{digest[:8]}"
            if token.name not in ("", name):
                raise ForbiddenError(f"this token is for the name {token.name!r} alone; drop --name")
            known, by = records.identities.get(name), f"token {request.token_id}"
            replace = token.replace and known is not None and known.role == token.role
            return Applicant(name, token.role, key, by, request.serves, replace)

        return self._admit("enrolled", applicant, ip)

    def exchange(self, request: trust_pb2.EnrolRequest, claims: Claims, ip: str = "") -> trust_pb2.Credential:
        """A certificate for a JWT that was verified.

        Its issuer says who bears the name, so a new key takes the place of the one that came by a JWT before.
        Raises ForbiddenError, PayloadError or CheckpointError.
        """
        name, key = claims.name, pki.key_of_csr(request.csr)
        if request.name not in ("", name):
            raise ForbiddenError(f"this JWT is for the name {name!r}; drop --name")

        def applicant(records: Records) -> Applicant:
            known = records.identities.get(name)
            replace = known is not None and known.by == BY_JWT
            return Applicant(name, claims.role, key, BY_JWT, request.serves, replace)

        return self._admit("enrolled", applicant, ip)

    def renew(
        self, request: trust_pb2.RenewRequest, caller: Caller, claims: Claims | None = None
    ) -> trust_pb2.Credential:
        """A new certificate for a caller that has an identity of this CA, and for a new key if it sends one.

        An identity that came by a JWT needs a new one, whose `claims` these are. Raises as `exchange` does.
        """
        name, role, key = caller.name, caller.role, pki.key_of_csr(request.csr)

        def applicant(records: Records) -> Applicant:
            entry = records.identities.get(name)
            if entry is None or entry.role != role:
                raise ForbiddenError("only an identity of this leader's own CA can be renewed")
            # Another key may have got the name since the call began.
            records.check_shown(name, role, caller.serial)
            if entry.by == BY_JWT and (claims is None or (claims.name, claims.role) != (name, role)):
                raise ForbiddenError(f"{name} came by a JWT: renew with a new one of this name and role")
            _check_owner(records, digest_of(key), name)  # whoever saw a request of another key can send it
            entry.key_sha256 = digest_of(key)  # certificates of the old key are admitted until they end
            return Applicant(name, role, key, entry.by, request.serves)

        return self._admit("renewed", applicant, caller.address)

    def issue(self, applicant: Applicant) -> trust_pb2.Credential:
        """A certificate without a token; raises ForbiddenError, PayloadError or CheckpointError."""
        return self._admit("issued", lambda records: applicant)

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

    def _admit(self, what: str, choose: Callable[[Records], Applicant], ip: str = "") -> trust_pb2.Credential:
        """Certify the applicant that `choose` finds right, once it is written down, and record it."""
        with self.state.edit() as records:
            one = choose(records)
            entry = _entry_for(records, one, self.now())
            certificate = self._certificate(one)
            entry.serials = [*entry.serials, f"{certificate.serial_number:x}"][-_MOST_SERIALS:]
            ends_at = pki.ends_at(certificate)
            entry.until, entry.since, entry.by = max(entry.until, ends_at), entry.since or self.now(), one.by
            records.identities[one.name] = entry
        self.record(what, who=one.name, role=one.role, ip=ip, by=one.by, key=entry.key_sha256)
        der, root = (given.public_bytes(Encoding.DER) for given in (certificate, self.ca))
        credential = trust_pb2.Credential(certificate=der, roots=[root], name=one.name, role=one.role)
        credential.fleet, credential.renew_at = self.fleet, int((self.now() + ends_at) / 2)
        return credential

    def _certificate(self, one: Applicant) -> x509.Certificate:
        now, identity = self.now(), Identity(self.fleet, one.role, one.name)
        longest_h = self._config.jwt_cert_hours if one.by == BY_JWT else math.inf
        until = now + 3600 * (one.hours or min(self._config.cert_hours, longest_h))
        serves = one.serves and one.role in _SERVING
        return pki.issue(self.ca, self._key, one.key, identity, until=until, now=now, serves=serves)


def digest_of(key: PublicKey) -> str:
    """SHA-256 of a key's SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(pki.spki(key)).hexdigest()


def _name_of(records: Records, digest: str) -> str:
    """The name of the identity that has the key of this digest, or ""."""
    return next((name for name, entry in records.identities.items() if entry.key_sha256 == digest), "")


def _check_owner(records: Records, digest: str, name: str) -> None:
    """Raise ForbiddenError if the key of this digest is another identity's than `name`."""
    owner = _name_of(records, digest)
    if owner not in ("", name):
        raise ForbiddenError(f"this key is that of {owner!r} already; come as {owner!r}, or with a new key")


def _entry_for(records: Records, one: Applicant, now: float) -> IdentityEntry:
    """The entry of an applicant, a new one where it has none or takes the place of another key or role."""
    records.check_name(one.name)
    digest = digest_of(one.key)
    _check_owner(records, digest, one.name)
    known = records.identities.get(one.name)
    if known is not None and (known.key_sha256, known.role) == (digest, one.role):
        return known
    if known is not None and not one.replace:
        raise ForbiddenError(
            f"the name {one.name!r} is another key's; choose another --name, or there: "
            f"python -m leader.trust token --name {one.name} --replace"
        )
    if known is not None:
        records.withdraw(known, now)
    return IdentityEntry(role=one.role, key_sha256=digest)
