"""One registration with the leader: what calls need, and what was agreed on."""

from __future__ import annotations

from dataclasses import dataclass

from protos import leader_pb2
from utils.wire.contract import LeaderStub


@dataclass(frozen=True)
class Connection:
    """One registration with the leader."""

    stub: LeaderStub
    token: bytes
    learner_id: int
    name: str
    run: leader_pb2.RunDescription
