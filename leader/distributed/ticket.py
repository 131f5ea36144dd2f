"""Tickets: what a work order allows its learner at an edge, which checks one by itself, without asking the leader.

HMAC-SHA256 (RFC 2104) under a key of the run that the leader and its edges have; whoever has a ticket can use it, so it
goes to its learner alone, and ends.
"""

from __future__ import annotations

import hashlib
import hmac
import time

from google.protobuf.message import DecodeError

from protos import edge_pb2
from utils.errors import EndedError, ForbiddenError

LIFE_S = 24 * 3600
_MAC_BYTES = 32
_MOST_BYTES = 1024


def key_of(secret: str) -> bytes:
    """The key of a run's tickets, 32 bytes, from the run's secret."""
    return hmac.new(secret.encode(), b"flockstep edge tickets", hashlib.sha256).digest()


def seal(key: bytes, ticket: edge_pb2.Ticket) -> bytes:
    """The ticket as a learner carries it."""
    message = ticket.SerializeToString(deterministic=True)
    return hmac.digest(key, message, "sha256") + message


def unseal(key: bytes, sealed: bytes, run_id: str) -> edge_pb2.Ticket:
    """The ticket; raises ForbiddenError for a forged one or another run's, EndedError for one that is too old."""
    message = sealed[_MAC_BYTES:]
    if len(sealed) > _MOST_BYTES or not hmac.compare_digest(
        hmac.digest(key, message, "sha256"), sealed[:_MAC_BYTES]
    ):
        raise ForbiddenError("this ticket was not given out by the leader of this edge; ask it for work")
    try:
        ticket = edge_pb2.Ticket.FromString(message)
    except DecodeError:  # who has the key wrote it
        raise ForbiddenError(
            "this ticket can't be read; install the same release on leader and edges"
        ) from None
    if ticket.run_id != run_id:
        raise ForbiddenError("this ticket is of another run; ask the leader for work")
    if ticket.until < time.time():
        raise EndedError("this ticket has ended; ask the leader for work")
    return ticket
