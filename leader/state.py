"""The run's committed state: what a checkpoint holds and a restart needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leader.events import RoundCommitted, Spread
from leader.rounds.buffer import OpenWork


@dataclass(frozen=True)
class RunState:
    """Everything that the next round depends on. Random choices derive from the config's seed."""

    run_id: str
    round: int  # rounds committed
    exchanges: int  # exchanges applied in those rounds
    version: int  # number of the model version
    vector: NDArray[np.float32]  # (total,): parameters, then float buffers
    optimizer: Mapping[str, NDArray[np.float32]]  # server optimizer state
    seats: Seats | None = None  # None before the data is dealt
    bytes_up: int = 0
    bytes_down: int = 0
    seconds: float = 0.0  # training time
    federated: Mapping[str, Spread] = field(
        default_factory=dict
    )  # learners' scores of the model before this one
    committed: RoundCommitted | None = None  # what was told, or would have been, about the last round
    #: What learners have where changes of the model are encoded (codec.down); None = the vector itself.
    public: NDArray[np.float32] | None = None
    history: Mapping[str, PartHistory] = field(default_factory=dict)  # by part, of committed rounds
    open_work: Mapping[str, OpenWork] = field(default_factory=dict)  # by part (asynchronous runs)
    turns: Mapping[str, int] = field(default_factory=dict)  # work given out so far, by part (the same)
    audit_head: str = ""  # of the audit when this was written, as N:HASH; "" in a run without trust
    privacy: PrivacyState | None = None  # of a run with dp.mode
    masks_range: float = 0.0  # of the next round's masks, with secagg.bits=16; 0 = the config's
    #: What nobody outside can compute work ids without; learners see only the ids. "" in tests alone.
    secret: str = field(default="", repr=False)

    @property
    def served(self) -> NDArray[np.float32]:
        """The model that learners work from, (total,)."""
        return self.vector if self.public is None else self.public


@dataclass(frozen=True)
class PrivacyState:
    """What the next private release depends on, and what the ledger says by now."""

    noise_key: bytes = field(repr=False)  # of the next round; b"" after the last
    clip: float  # L2 norm that the next round's updates are clipped to
    entries: int = 0  # of privacy.jsonl
    head: str = ""  # SHA-256 of the newest, in hex
    epsilon: float = 0.0  # that the part has spent that was in most releases
    budget: float = 0.0  # epsilon that each part may spend


Shards = tuple[NDArray[np.int64], ...]


@dataclass(frozen=True)
class Claim:
    """Who may come back under a name after a restart, as a checkpoint keeps it."""

    digest: str  # SHA-256 of the session token; "" of a plain learner, which has none to show
    host: str  # that it registered from


@dataclass(frozen=True)
class Seats:
    """Which learner holds which part of the leader's data, and whose the names are, as a checkpoint keeps it."""

    shards: Shards  # example indices of each shard
    holders: Mapping[str, str]  # shard number to the name of its learner
    own: int  # learners with own data when the run began
    claims: Mapping[str, Claim] = field(default_factory=dict)  # by name; an identity needs none


@dataclass(frozen=True)
class PartHistory:
    """What committed rounds have told about one part."""

    times: int  # committed rounds that its update is in
    last_round: int  # the newest of them
    loss: float  # mean training loss that it told last, NaN if it never told one
    seconds: float  # wall time from its last work order to its counted update


History = Mapping[str, PartHistory]  # by part
