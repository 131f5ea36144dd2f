"""Names that both ends read the same way: roles, identities, and the names that TLS checks."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

ROLES = ("learner", "aggregator", "observer", "operator", "admin", "gateway")
#: Those that a token or a JWT may give; a gateway speaks for others, which takes a certificate.
TOKEN_ROLES = tuple(role for role in ROLES if role != "gateway")
LEADER = "leader"  # role of the certificate with which a leader dials its learners

#: The server name that every leader's certificate bears, so that it may be reached at any address.
TLS_NAME = "leader.flockstep.internal"
#: That of whoever may take updates, at whatever address: the leader itself, or one of role `EDGE`.
EDGE_TLS_NAME = "edge.flockstep.internal"
EDGE = "aggregator"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"-[0-9a-f]{16}$")
_URI = re.compile(rf"spiffe://([0-9a-f]{{16}})\.flockstep/({'|'.join((*ROLES, LEADER))})/({_NAME.pattern})")


@dataclass(frozen=True)
class Identity:
    """Who a certificate speaks for, as it stands in it (a SPIFFE ID)."""

    fleet: str  # 16 hex digits that tell the CA's key, see utils.trust.pki.fleet_of
    role: str
    name: str  # unique in a fleet, whatever the role

    @property
    def uri(self) -> str:
        return f"spiffe://{self.fleet}.flockstep/{self.role}/{self.name}"

    @classmethod
    def parse(cls, uri: str) -> Identity:
        """The identity in a URI; ValueError unless it is exactly one that `uri` gives."""
        found = _URI.fullmatch(uri)
        if not found or not is_name(found[3]):
            raise ValueError(f"{uri!r} is not spiffe://FLEET.flockstep/ROLE/NAME")
        return cls(*found.groups())


def is_name(text: str) -> bool:
    """Whether an identity may have this name, which is also a path segment and a folder."""
    return bool(_NAME.fullmatch(text)) and text not in {".", ".."}


def name_of(subject: str) -> str:
    """The name of whom another system calls `subject`; no two share one."""
    if is_name(subject) and not _DIGEST.search(subject):  # what looks like a digest must be one
        return subject
    readable = re.sub(r"[^A-Za-z0-9._-]+", "-", subject)[:47].strip("-.") or "sub"
    return f"{readable}-{hashlib.sha256(subject.encode(errors='surrogatepass')).hexdigest()[:16]}"


def learner_tls_name(name: str) -> str:
    """The server name of the learner `name`, where the leader dials it.

    A digest, since DNS names are compared without case, and their labels are shorter than names may be.
    """
    return f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.learner.flockstep.internal"
