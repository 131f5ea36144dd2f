"""The run's committed state: what a checkpoint holds and a restart needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
    average: NDArray[np.float32] | None = None  # mean of the models of the last `averaged` rounds, (total,)
    averaged: int = 0
    history: History = field(default_factory=dict)  # of committed rounds; see LayeredHistory
    open_work: Mapping[str, OpenWork] = field(default_factory=dict)  # by part (asynchronous runs)
    turns: Mapping[str, int] = field(default_factory=dict)  # work given out so far, by part (the same)
    audit_head: str = ""  # of the audit when this was written, as N:HASH; "" in a run without trust
    privacy: PrivacyState | None = None  # of a run with dp.mode
    masks_range: float = 0.0  # of the next round's masks, with secagg.bits=16; 0 = the config's
    frozen: str = ""  # fingerprint of the parameters that are; "" = none
    #: What nobody outside can compute work ids without; learners see only the ids. "" in tests alone.
    secret: str = field(default="", repr=False)

    @property
    def served(self) -> NDArray[np.float32]:
        """The model that learners work from, (total,)."""
        return self.vector if self.public is None else self.public

    @property
    def result(self) -> NDArray[np.float32]:
        """The model that is tested and left behind, (total,)."""
        return self.vector if self.average is None else self.average


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


@dataclass(frozen=True, slots=True)
class PartHistory:
    """What committed rounds have told about one part."""

    times: int  # committed rounds that its update is in
    last_round: int  # the newest of them
    loss: float  # mean training loss that it told last, NaN if it never told one
    seconds: float  # wall time from its last work order to its counted update


History = Mapping[str, PartHistory]  # by part

#: Parts that a checkpoint tells of by itself; where there are more, most of them lie beside it.
FEW_PARTS = 256
_SETTLED_SHARE = 64  # of the settled parts, one in so many may have changed since they were


class LayeredHistory(History):
    """History by part, in two layers: a round copies and writes what is `recent`, not all that is `settled`.

    >>> once = PartHistory(1, 1, 0.5, 2.0)
    >>> LayeredHistory({"a": once}, {"b": once}) == {"a": once, "b": once}
    True
    """

    def __init__(self, settled: History, recent: History) -> None:
        self.settled = settled  # shared with the states before
        self.recent = recent  # what changed since that was made

    @classmethod
    def of(cls, history: History) -> LayeredHistory:
        """`history` itself, or in its layers."""
        if isinstance(history, LayeredHistory):
            return history
        return cls(history, {}) if len(history) > FEW_PARTS else cls({}, history)

    def with_round(self, told: History) -> LayeredHistory:
        """With what a round told; that becomes settled when there is much of it."""
        recent = {**self.recent, **told}
        if len(recent) > max(FEW_PARTS, len(self.settled) // _SETTLED_SHARE):
            return LayeredHistory({**self.settled, **recent}, {})
        return LayeredHistory(self.settled, recent)

    def __getitem__(self, part: str) -> PartHistory:
        return self.recent[part] if part in self.recent else self.settled[part]

    def __contains__(self, part: object) -> bool:
        return part in self.recent or part in self.settled

    def __iter__(self) -> Iterator[str]:
        return iter({**self.settled, **self.recent})

    def __len__(self) -> int:
        return len(self.settled) + sum(part not in self.settled for part in self.recent)
