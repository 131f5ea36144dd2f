"""What an aggregator is: updates in, one result out."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leader.state import PrivacyState
from utils.wire.payload import Payload


@dataclass(frozen=True)
class Contribution:
    """One complete, verified update."""

    part: str  # which piece of the round's work it is
    weight: int  # number of training examples behind it
    payload: Payload
    loss: float  # mean training loss, NaN if not said
    local_steps: int = 1
    start_loss: float = math.nan  # mean loss of the model it started from, NaN if not said
    staleness: int = 0  # rounds committed since the model it started from
    buffers_shift: NDArray[np.float32] | None = None  # (buffers,): that model's minus the newest model's


@dataclass(frozen=True)
class Result:
    """What an exchange came to."""

    mean: NDArray[
        np.float32
    ]  # of what the layout shares: mean gradient or delta, then mean change of the buffers
    examples: int
    loss: float  # example-weighted mean over the contributions that told theirs
    digest: str  # hex; equal exactly when parts, weights, factors and payloads were equal
    privacy: PrivacyState | None = None  # after it, where it was released with noise
    masks_range: float = 0.0  # for the next round's masks, where this one's values decide that


class Aggregator(Protocol):
    """Combines one exchange's updates; the order in which they are added leaves no trace in the result."""

    def add(self, contribution: Contribution) -> None:
        """Take one contribution in, whole or not at all.

        Raises PayloadError, ValueRangeError or LimitError, and CheckpointError where it goes to a disk
        that is full.
        """
        ...

    def finish(self) -> Result:
        """What everything added comes to; raises TooFewLearnersError, CheckpointError or PrivacyError."""
        ...

    def close(self) -> None:
        """Give up what is held outside memory; calling it again changes nothing."""
        ...
