"""The methods of TrustService, each described once; see utils/wire/contract.py."""

from __future__ import annotations

from protos import trust_pb2
from utils.wire.contract import Method, many, one
from utils.wire.rpc import MAX_MESSAGE_BYTES

SERVICE = "trust.TrustService"
_BIG = MAX_MESSAGE_BYTES  # what grows with the fleet, and the audit

ENROL = Method(SERVICE, "Enrol", one(trust_pb2.EnrolRequest), one(trust_pb2.Credential))
RENEW = Method(SERVICE, "Renew", one(trust_pb2.RenewRequest), one(trust_pb2.Credential))
WHO_AM_I = Method(SERVICE, "WhoAmI", one(trust_pb2.WhoAmIRequest), one(trust_pb2.Identity))

LIST_IDENTITIES = Method(
    SERVICE, "ListIdentities", one(trust_pb2.ListRequest), one(trust_pb2.Identities, _BIG)
)
REVOKE = Method(SERVICE, "Revoke", one(trust_pb2.RevokeRequest), one(trust_pb2.Identity))
FORGET = Method(SERVICE, "Forget", one(trust_pb2.ForgetRequest), one(trust_pb2.Identities, _BIG))
MAKE_TOKEN = Method(SERVICE, "MakeToken", one(trust_pb2.TokenRequest), one(trust_pb2.Token))
LIST_TOKENS = Method(SERVICE, "ListTokens", one(trust_pb2.ListRequest), one(trust_pb2.Tokens, _BIG))
REVOKE_TOKEN = Method(SERVICE, "RevokeToken", one(trust_pb2.TokenId), one(trust_pb2.Tokens, _BIG))
READ_AUDIT = Method(SERVICE, "ReadAudit", one(trust_pb2.AuditRequest), many(trust_pb2.AuditLines, _BIG))
