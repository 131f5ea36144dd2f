"""A PKI of one's own in place of the leader's CA: its certificates, and rules that say who their holders are."""

from __future__ import annotations

import asyncio
import logging
import re

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID

from leader.config import TrustConfig
from leader.trust.identities.callers import Caller, read_records
from leader.trust.identities.state import TrustState
from utils.errors import ConfigError, ForbiddenError
from utils.trust.credentials import Credentials
from utils.trust.names import ROLES, name_of

_log = logging.getLogger(__name__)
_LOOK_S = 0.2  # how often the files are looked at


#: Of a URI, or of CN= and a common name; and the role of whom it fits.
Rule = tuple[re.Pattern[str], str]


class OwnPki:
    """The files as they were read last; an Issuer by the rules among them."""

    door = b""

    def __init__(self, trust: TrustConfig, state: TrustState) -> None:
        """Raises ConfigError that says which file can't be used."""
        self._paths = [path for path in (trust.certificate, trust.key, trust.client_ca, trust.roles) if path]
        self._state = state
        self._take(self._contents())

    def _contents(self) -> list[bytes]:
        try:
            return [path.read_bytes() for path in self._paths]
        except OSError as error:
            raise ConfigError(f"{error.filename}: {error.strerror}; a PKI of your own needs it") from None

    def _take(self, files: list[bytes]) -> None:
        certificate, key, roots, rules = files
        names = [str(path) for path in self._paths]
        try:
            leaf = x509.load_pem_x509_certificate(certificate)
            own = load_pem_private_key(key, None).public_key() == leaf.public_key()
            cas = x509.load_pem_x509_certificates(roots)
        except (ValueError, TypeError) as error:
            what = f"{', '.join(names[:2])} or {names[2]}"
            raise ConfigError(
                f"{what} is not what it should be, in PEM, without a passphrase: {error}"
            ) from None
        if not own:
            raise ConfigError(f"{names[1]} is not the key of {names[0]}; put back the pair")
        self._rules = read_rules(rules.decode(errors="replace"), names[3])
        self._cas, self._files = cas, files

    def server_credentials(self) -> Credentials:
        """See Issuer."""
        certificate, key, roots, _ = self._files
        return Credentials(key, certificate, roots)

    async def renewed(self) -> None:
        """See Issuer: when the files have changed; the old ones count until the new ones fit together."""
        told, shown = "", self._files
        while self._files == shown:  # each listener waits for itself
            await asyncio.sleep(_LOOK_S)
            try:
                if (files := self._contents()) != self._files:
                    self._take(files)
            except ConfigError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("the old certificates stay in use: %s", told)

    def holder(self, certificate: x509.Certificate) -> tuple[str, str]:
        """See Issuer; by the first rule that one of its URIs or its common name fits."""
        if not any(_issued(certificate, ca) for ca in self._cas):
            raise ForbiddenError("no CA of trust.client_ca has issued this certificate itself")
        subjects = _subjects(certificate)
        for pattern, role in self._rules:
            for subject in subjects:
                if pattern.fullmatch(subject):
                    return name_of(subject.removeprefix("CN=")), role
        raise ForbiddenError(
            f"no rule of trust.roles fits {' or '.join(subjects) or 'a certificate of nobody'}"
        )

    def check(self, caller: Caller) -> None:
        """See Issuer."""
        read_records(self._state).check_name(caller.name)


def read_rules(text: str, path: str) -> list[Rule]:
    """Rules from lines such as `CN=trainer-* = learner`, where * is anything but a slash; # begins a remark.

    Raises ConfigError that names the line.
    """
    rules = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (line := line.partition("#")[0].strip()):
            continue
        pattern, _, role = (part.strip() for part in line.rpartition("="))
        if role not in ROLES or not re.match(r"CN=.|[a-z][a-z0-9+.-]*://.", pattern):
            raise ConfigError(
                f"{path}:{number}: {line!r} is not URI = ROLE or CN=NAME = ROLE with a role of {', '.join(ROLES)}"
            )
        rules.append((re.compile("[^/]*".join(map(re.escape, pattern.split("*")))), role))
    return rules


def _subjects(certificate: x509.Certificate) -> list[str]:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = san.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, ValueError):
        uris = []
    # What is written as a URI must not read as a common name.
    return [*(uri for uri in uris if not uri.startswith("CN=")), *(f"CN={name.value!s}" for name in names)]


def _issued(certificate: x509.Certificate, ca: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True
