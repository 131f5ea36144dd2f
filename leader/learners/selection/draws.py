"""Random draws of a round, the same with every release of NumPy."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from utils.seeds import derive_seed


def raw_draws(count: int, *, seed: int, round_: int) -> NDArray[np.uint64]:
    """`count` independent integers below 2**64; more of them begin with the same ones."""
    # NumPy keeps the raw draws of a bit generator the same for ever, but not Generator.permutation or choice.
    return np.random.PCG64(derive_seed(seed, "cohort", round_)).random_raw(count)


def unit(draw: int) -> float:
    """A raw draw as a number in (0, 1], uniform in steps of 2**-53."""
    return ((draw >> 11) + 0.5) * 2.0**-53


def smallest(keys: Sequence[float], count: int) -> list[int]:
    """Positions of the `count` smallest keys, ascending by key, equal ones by position."""
    return heapq.nsmallest(count, range(len(keys)), key=keys.__getitem__)


def smallest_draws(draws: NDArray[np.uint64], count: int) -> list[int]:
    """`smallest` of raw draws, quick for a few of many."""
    few = np.flatnonzero(draws <= np.partition(draws, count - 1)[count - 1])
    positions: list[int] = few[np.argsort(draws[few], kind="stable")][:count].tolist()
    return positions


def weighted(weights: Sequence[float], count: int, draws: Sequence[int]) -> list[int]:
    """Positions drawn one after another, each with a probability in proportion to its weight among those left.

    One raw draw a weight. Weights are not negative; those of 0 come last. Method: the smallest keys
    -ln(u) / w, exponential variables of rate w, which order as the largest u**(1/w) do (Efraimidis & Spirakis
    2006, https://doi.org/10.1016/j.ipl.2005.11.003, algorithm A).
    """
    keys = [
        -math.log(unit(draw)) / weight if weight > 0 else math.inf
        for weight, draw in zip(weights, draws, strict=True)
    ]
    return smallest(keys, count)
