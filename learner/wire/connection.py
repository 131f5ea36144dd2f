"""One registration with the leader: what calls need, and what was agreed on; and where else calls may go."""

from __future__ import annotations

from dataclasses import dataclass

from protos import leader_pb2
from utils.errors import (
    ForbiddenError,
    NotReadyError,
    StalledError,
    UnknownLearnerError,
    UnreachableError,
)
from utils.wire.contract import LeaderStub

#: What another connection can mend, or tells for good: a certificate that has ended may have been renewed.
MENDABLE = (UnreachableError, StalledError, UnknownLearnerError, NotReadyError, ForbiddenError)


@dataclass(frozen=True)
class Endpoint:
    """Where models come from and updates go, and what lets this learner in there: one of the two is empty."""

    stub: LeaderStub
    token: bytes = b""  # of the registration, at the leader
    ticket: bytes = b""  # of the work order, at an edge


@dataclass(frozen=True)
class Connection:
    """One registration with the leader."""

    stub: LeaderStub
    token: bytes
    name: str
    run: leader_pb2.RunDescription

    @property
    def leader(self) -> Endpoint:
        """The leader, as a place for models and updates."""
        return Endpoint(self.stub, self.token)
