"""The target of Enrol, which whoever has a join token may call."""

from __future__ import annotations

from pathlib import Path

import grpc
from cryptography import x509

from leader.config import TrustConfig
from leader.trust.identities.authority import Authority
from leader.trust.identities.manager import Manager, TrustService
from protos import trust_pb2
from tests.fuzz.channel import Context, find_method
from tests.fuzz.leader_targets import STATUSES
from tests.fuzz.mutator import Mutator
from tests.fuzz.runner import AsyncTarget
from utils.errors import WireError
from utils.trust import contract, pki
from utils.trust.token import JoinToken
from utils.wire.status import STATUS

_KEYS = 4


class EnrolTarget(AsyncTarget):
    """Enrol: a certificate for the sender's own key with the token's role, or a refusal."""

    name = "Enrol"

    def __init__(self, folder: Path, seed: int) -> None:
        self.mutator = Mutator(seed)
        self._authority = authority = Authority(folder, TrustConfig())
        self._method = find_method(TrustService(authority).handler(), f"/{contract.SERVICE}/Enrol")
        csrs = [pki.make_csr(pki.new_key()) for _ in range(_KEYS)]
        good = [self._token(), self._token(name="bound"), self._token(uses=1)]
        ended = self._token(hours=1e-9)
        tokens = [*good, *[ended, authority.new_token()] * 5]  # what is granted waits for the disk
        self._ids = {token: token.token_id for token in tokens}
        self._sound = [(token, (csr, token.prove(csr))) for token in tokens for csr in csrs]

    def _token(self, *, name: str = "", uses: int = 0, hours: float = 1000.0) -> JoinToken:
        request = trust_pb2.TokenRequest(role="learner", name=name, uses=uses, hours=hours)
        return JoinToken.parse(Manager(self._authority).make_token(request).text)

    async def step(self) -> str:
        """Ask to join."""
        token, (csr, proof) = self.mutator.pick(self._sound)
        if self.mutator.chance(0.1):  # whoever holds a token can sign what it likes
            csr = self.mutator.garble(csr)
            proof = token.prove(csr)
        name = self.mutator.pick(("", "one", "two", "bound"))
        request = trust_pb2.EnrolRequest(csr=csr, name=name, token_id=self._ids[token], proof=proof)
        self.last = message = self.mutator.message(request)
        try:
            given = await self._method.unary_unary(message, Context("ipv4:10.0.0.2:7"))
        except WireError as refused:  # which the guard tells
            code = STATUS[type(refused)]
        else:
            code = grpc.StatusCode.OK
            self._check(trust_pb2.EnrolRequest.FromString(message), given)
        assert code in STATUSES, code
        return code.name

    def _check(self, request: trust_pb2.EnrolRequest, given: trust_pb2.Credential) -> None:
        """What was given is for the key that asked, and no more than the token allows."""
        certificate = x509.load_der_x509_certificate(given.certificate)
        assert certificate.public_key() == pki.key_of_csr(request.csr)
        identity = pki.identity_of(certificate, self._authority.ca)
        assert (identity.name, identity.role) == (given.name, "learner")
        assert request.name in ("", identity.name)
        identities = self._authority.state.read().identities
        assert {entry.role for entry in identities.values()} == {"learner"}
        assert len(identities) <= _KEYS
