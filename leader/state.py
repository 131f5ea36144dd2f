"""The run's committed state: what a checkpoint holds and a restart needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from leader.buffered import OpenWork
from leader.events import RoundCommitted
from leader.federated import Spread
from leader.selection.base import PartHistory
from leader.workforce import Seats


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

    @property
    def served(self) -> NDArray[np.float32]:
        """The model that learners work from, (total,)."""
        return self.vector if self.public is None else self.public
