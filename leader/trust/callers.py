"""Who is calling: what each call is checked, limited, counted and remembered by."""

from __future__ import annotations

import math
from contextvars import ContextVar
from dataclasses import dataclass

from utils.wire.contract import Context


@dataclass(frozen=True)
class Caller:
    """The other end of one call."""

    name: str  # of its identity; "" = it has none, as in a run without trust
    role: str  # of utils.trust.names.ROLES, or "door"; "" = it has no identity
    address: str  # host that the call comes from; behind a gateway the one that the gateway saw
    place: str  # tells callers apart: the identity's name, else the connection
    until: float = math.inf  # unix seconds at which its certificate or token ends

    @property
    def known(self) -> bool:
        """Whether it has proven an identity."""
        return bool(self.name)


#: Set by the guard around each call of a run with trust.
_CALLER: ContextVar[Caller] = ContextVar("caller")


def caller_of(context: Context) -> Caller:
    """Who makes this call; without a guard, all that is known is the connection."""
    found = _CALLER.get(None)
    return found or anonymous(context.peer())


def anonymous(peer: str) -> Caller:
    """A caller of whom only the gRPC peer is known."""
    return Caller("", "", host_of(peer), peer)


def host_of(peer: str) -> str:
    """The host in a gRPC peer such as ipv4:10.0.0.1:4711 or ipv6:[::1]:4711."""
    return peer.partition(":")[2].rpartition(":")[0].strip("[]").replace("%5B", "").replace("%5D", "")
