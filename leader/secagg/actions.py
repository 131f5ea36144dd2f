"""What a session of secure aggregation asks of its caller, and what a closed one is written down as."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from protos import leader_pb2
from utils.secagg.roster import Seated


@dataclass(frozen=True)
class Send:
    """A message for one learner."""

    name: str
    message: leader_pb2.MaskDown


@dataclass(frozen=True)
class Ready:
    """These learners have their shares and may send masked updates; of others none will come in."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Failed:
    """The session came to nothing; updates of it can't be unmasked."""

    reason: str


@dataclass(frozen=True)
class Unmask:
    """The survivors have revealed what takes the masks off their sum; see leader.secagg.unmasking.seeds."""

    seated: Seated
    survivors: leader_pb2.Survivors
    answers: Mapping[int, Mapping[int, bytes]]


@dataclass(frozen=True)
class Closed:
    """A closed session as a file keeps it: all that tells who is in the sum, and nothing that unmasks it."""

    session: bytes
    order: bytes
    plan: leader_pb2.MaskPlan
    seats: tuple[leader_pb2.Seat, ...]
    survivors: leader_pb2.Survivors


Action = Send | Ready | Failed | Unmask
