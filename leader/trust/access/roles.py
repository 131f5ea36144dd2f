"""Who may call what: every method of the leader's port, and the roles that it is open to."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from grpc_health.v1 import health
from grpc_reflection.v1alpha import reflection

from leader.trust.identities.callers import DOOR, PLAIN, Caller
from utils.errors import ForbiddenError
from utils.trust import contract as trust
from utils.wire.rpc import SERVICE

BEARER = "bearer"  # whoever has proven an identity by a JWT, whatever its role
_TRAINING = frozenset({"learner", "aggregator"})
_OPERATING = frozenset({"operator", "admin"})
_ALL = _TRAINING | _OPERATING | {"observer"}
_SERVICES: Mapping[str, Mapping[str, frozenset[str]]] = {
    SERVICE: {
        "RegisterLearner": _TRAINING | {PLAIN},
        "GetData": _TRAINING | {PLAIN},
        "AccumulateGradients": _TRAINING | {PLAIN},
        "GetModel": _TRAINING | _OPERATING | {PLAIN},
        "Session": _TRAINING,
        "GetWork": _TRAINING,
        "GetUpload": _TRAINING,
        "ExchangeGradients": _TRAINING,
    },
    trust.SERVICE: {
        "Enrol": frozenset({DOOR, BEARER}),
        "Renew": _ALL,
        "WhoAmI": _ALL,
        "ListIdentities": _OPERATING,
        "ListTokens": _OPERATING,
        "ReadAudit": _OPERATING,
        # Whom they may make or revoke is the service's to say: operators learners and observers, admins all.
        "MakeToken": _OPERATING,
        "RevokeToken": _OPERATING,
        "Revoke": _OPERATING,
        "Forget": _OPERATING,
    },
    "edge.EdgeService": {
        "Join": frozenset({"aggregator"}),
        "PutSum": frozenset({"aggregator"}),
    },
    health.SERVICE_NAME: {"Check": _ALL, "List": _ALL, "Watch": _ALL},
    reflection.SERVICE_NAME: {"ServerReflectionInfo": _OPERATING},
}

#: By full method name; the role `gateway` has no row: it only carries the calls of others.
TABLE: Mapping[str, frozenset[str]] = MappingProxyType(
    {f"/{service}/{name}": roles for service, rows in _SERVICES.items() for name, roles in rows.items()}
)


def check(caller: Caller, method: str) -> None:
    """Raises ForbiddenError unless the caller's role may call `method`, such as /leader.LeaderService/GetWork."""
    row = TABLE.get(method, frozenset())
    if caller.role not in row and not (caller.bearer and BEARER in row):
        who = f"{caller.name} ({caller.role})" if caller.known else f"a caller with role {caller.role!r}"
        raise ForbiddenError(f"{who} may not call {method.rpartition('/')[2]}")
