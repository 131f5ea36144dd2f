"""What an aggregator is: updates in, one result out."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from leader.state import PrivacyState
from utils.secagg.update import Score
from utils.vector import Vector
from utils.wire.payload import Payload


@dataclass(frozen=True)
class Elsewhere:
    """What is told of an update whose values an edge has added."""

    uid: bytes
    squared_norm: float  # of its parameters' part, where the run's weighting needs that
    buffers: bool  # whether it brings buffers


@dataclass(frozen=True)
class Contribution:
    """One complete, verified update, or the mean of a masked group's."""

    part: str  # which piece of the round's work it is
    weight: int  # number of training examples behind it
    payload: Payload
    loss: float  # mean training loss, NaN if not said
    local_steps: int = 1
    start_loss: float = math.nan  # mean loss of the model it started from, NaN if not said
    staleness: int = 0  # rounds committed since the model it started from
    buffers_shift: NDArray[np.float32] | None = None  # (buffers,): that model's minus the newest model's
    updates: int = 1  # of which it is the mean
    elsewhere: Elsewhere | None = None  # its payload then has a checksum, and nothing else


@dataclass(frozen=True)
class Term:
    """Values that an update adds, from the element `start` on: weight * factor * values."""

    start: int
    values: Vector
    weight: int
    factor: float


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
    scores: Mapping[str, Score] = field(
        default_factory=dict
    )  # of the round's model, where updates tell none alone


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


class Countable(Aggregator, Protocol):
    """An aggregator that counts updates whose values are elsewhere, and takes what they come to."""

    @property
    def sum_bytes(self) -> int:
        """Size of a partial sum."""
        ...

    @property
    def parts(self) -> Collection[str]:
        """Whose updates are in the sum, or counted."""
        ...

    def count(self, contribution: Contribution) -> None:
        """Count an update whose values come with a partial sum; raises the WireError that it is refused with."""
        ...

    def hand_over(self) -> Iterable[tuple[str, list[Term]]]:
        """Parts with the values that must be where those of others are; once the next is asked for they are counted."""
        ...

    def merge(self, parts: frozenset[str], weights: tuple[int, ...], data: NDArray[np.uint8]) -> None:
        """Add the partial sum of the updates of `parts`, which are counted, and no others.

        Args:
            weights, data: as `Mergeable.summed` has them, the arrays one after the other as little-endian bytes. The
                data is the sum's from then on.

        Raises PayloadError, and nothing has changed, where the weights are not those that were counted.
        """
        ...

    def forget(self, parts: frozenset[str]) -> None:
        """Count these no more: their values do not come."""
        ...


class Mergeable(Countable, Protocol):
    """One whose sum may be made in several places: partial sums of some updates each."""

    def withdraw(self, contribution: Contribution) -> None:
        """Take out again what `add` has added, to the last bit."""
        ...

    def summed(self) -> tuple[tuple[int, ...], list[NDArray[np.generic]]]:
        """The sum so far: total weights, and the arrays that they are of."""
        ...
