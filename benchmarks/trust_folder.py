"""How a benchmark's learners get in: a leader's folder of trust, with its CA and a join token; or in the clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cryptography import x509
from grpc import aio

from leader.config import TrustConfig
from leader.trust.identities.authority import Applicant, Authority
from leader.trust.identities.manager import Manager
from protos import trust_pb2
from utils.trust import pki
from utils.trust.credentials import Credentials
from utils.trust.names import TLS_NAME

LOOPBACK = "127.0.0.1"


class InTheClear:
    """A leader that lets everybody in."""

    name = "plain"
    settings: Mapping[str, object] = {}  # of the leader
    crowd_flags: tuple[str, ...] = ()  # of benchmarks.endurance.crowd and benchmarks.endurance.handshakes

    def learner_flags(self, name: str) -> tuple[str, ...]:
        """Of the learner of this name."""
        return ()

    def admit(self, name: str) -> Credentials | None:
        """What a new learner shows, who is admitted without a token; None = nothing."""
        return None


class TrustFolder(InTheClear):
    """A folder of trust, made when it is first opened; processes may share it, as they may a leader's."""

    name = "secure"

    def __init__(self, folder: Path) -> None:
        self.authority = Authority(folder, TrustConfig(names=LOOPBACK))
        self.ca_file = folder / "ca.pem"
        self.settings = {"trust.mode": "on", "trust.dir": folder}
        self.crowd_flags = ("--trust", str(folder))
        self._folder = folder

    def learner_flags(self, name: str) -> tuple[str, ...]:
        """An identity of its own, and a join token that gets it one the first time."""
        token = self._folder / "benchmark-token"
        if not token.exists():
            request = trust_pb2.TokenRequest(role="learner", hours=1.0)
            token.write_text(Manager(self.authority).make_token(request).text, encoding="utf-8")
        return ("--join", f"@{token}", "--identity", str(self._folder / f"benchmark-{name}"))

    def admit(self, name: str) -> Credentials:
        """See InTheClear."""
        key = pki.new_key()
        given = self.authority.issue(Applicant(name, "learner", key.public_key(), by="benchmark"))
        certificate = x509.load_der_x509_certificate(given.certificate)
        return Credentials(pki.key_to_pem(key), pki.to_pem(certificate), pki.to_pem(self.authority.ca))

    def server_files(self) -> tuple[Path, Path]:
        """The files of a server's certificate and key."""
        own = self.authority.server_credentials()
        certificate, key = self._folder / "server.pem", self._folder / "server.key"
        certificate.write_bytes(own.certificate)
        key.write_bytes(own.key)
        return certificate, key


def choose_way(trust: Path | None) -> InTheClear:
    """The way in to a leader with this folder of trust, or without one."""
    return TrustFolder(trust) if trust else InTheClear()


def own_channel(
    address: str, own: Credentials | None, options: Sequence[tuple[str, Any]] = ()
) -> aio.Channel:
    """A connection that is shared with no other channel of this process; in the clear without credentials."""
    options = (*options, ("grpc.use_local_subchannel_pool", 1))
    if own is None:
        return aio.insecure_channel(address, options=options)
    options = (*options, ("grpc.ssl_target_name_override", TLS_NAME))
    return aio.secure_channel(address, own.for_channel(), options=options)
