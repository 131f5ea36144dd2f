"""What an edge proves itself with, and how it knows the edges below it: by the CA that issued its own certificate."""

from __future__ import annotations

import asyncio
import logging
import ssl

from cryptography import x509

from leader.edge.options import JoinOptions
from leader.trust.identities.callers import Caller
from leader.trust.identities.revocations import Revocations
from utils.errors import ConfigError, ForbiddenError
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.names import EDGE, EDGE_TLS_NAME

_log = logging.getLogger(__name__)
_LOOK_S = 1.0  # how often the files are looked at
#: What gives an edge its certificate, at the leader.
HOW = "python -m leader.trust issue NAME --role aggregator --out DIR"


class EdgeIdentity:
    """The files as they were read last; an Issuer, of identities of the same CA."""

    door = b""

    def __init__(self, options: JoinOptions) -> None:
        """Raises ConfigError for files that can't be used, ForbiddenError for a certificate of another role."""
        self._options = options
        self.revocations = Revocations()  # as the parent has told them last
        self.credentials = self._read()
        self._ca = pki.from_pem(self.credentials.roots, "--ca")
        own = pki.from_pem(self.credentials.certificate, "--certificate")
        try:
            role = pki.identity_of(own, self._ca).role
        except ForbiddenError:  # of a PKI of one's own, whose rules the leader has
            role = ""
        if role not in ("", EDGE):
            raise ForbiddenError(f"--certificate is of role {role}; get one (there: {HOW})")
        #: That the parent's certificate must have; "" = the host that is dialled.
        self.parent_name = EDGE_TLS_NAME if role else ""

    def _read(self) -> Credentials:
        files = [path for path in (self._options.key, self._options.certificate, self._options.ca) if path]
        try:
            read = Credentials(*(path.read_bytes() for path in files))
            ssl.create_default_context().load_cert_chain(files[1], files[0], password="")
        except OSError as error:  # those of ssl too
            raise ConfigError(f"--certificate, --key, --ca: {error}") from None
        return read

    def server_credentials(self) -> Credentials:
        """See Issuer."""
        return self.credentials

    def holder(self, certificate: x509.Certificate) -> tuple[str, str]:
        """See Issuer."""
        identity = pki.identity_of(certificate, self._ca)
        return identity.name, identity.role

    def check(self, caller: Caller) -> None:
        """See Issuer."""
        self.revocations.check(caller.name, caller.serial)

    async def renewed(self) -> None:
        """See Issuer: when the files have changed; the old ones count until the new ones fit together."""
        told = ""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                if (read := self._read()) != self.credentials:
                    self.credentials, self._ca = read, pki.from_pem(read.roots, "--ca")
                    return
            except ConfigError as error:
                if str(error) != told:
                    told = str(error)
                    _log.warning("the old certificate stays in use: %s", told)
