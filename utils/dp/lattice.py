"""Updates on the integer lattice: clipped and rounded so that their length is bounded exactly, not up to a float."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from utils.errors import ValueRangeError
from utils.vector import Vector

#: Largest reach. The squares of what is rounded add up to little more than its square, and a block's stay below
#: 2**53, so that a float64 holds their sum exactly, in whatever order it is made.
MAX_REACH = 1 << 25
_BLOCK = 1 << 13  # elements; 64 KiB of float64, and too few for BLAS to take a second thread
#: A little more than float64 and rounding can be wrong by, so that a second try is nearly always the last.
_SHRINK = 1 - 2e-7


@dataclass(frozen=True)
class OnLattice:
    """An update as integers."""

    levels: NDArray[np.int32]  # (d,)
    within: bool  # whether it was no longer than the clipping norm


def to_lattice(values: Vector, clip: float, reach: int) -> OnLattice:
    """`values` times reach / max(norm, clip), rounded half to even: the sum of squares is at most reach^2, exactly.

    The float norm decides how much of the reach is used, never whether the bound holds: that is checked in
    integers, and the factor shrunk until it does. Raises ValueRangeError for a value that is not finite.

    >>> to_lattice(np.array([3, 4], np.float32), clip=1.0, reach=1000).levels.tolist()
    [600, 800]
    """
    assert 0 < reach <= MAX_REACH
    norm = math.sqrt(_squares(values))
    if not math.isfinite(norm):
        raise ValueRangeError("values in the update are not finite; it can't be clipped (dp.clip)")
    factor = reach / max(norm, clip)
    levels = np.empty(values.size, np.int32)
    while (squares := _round(values, factor, levels)) > reach * reach:
        factor *= reach / math.sqrt(squares) * _SHRINK
    return OnLattice(levels, norm <= clip)


def _squares(values: Vector) -> float:
    """The sum of squares in float64, with the same bits everywhere; NaN where a value is not finite."""
    scratch = np.empty(min(_BLOCK, max(1, values.size)), np.float64)
    sums = []
    for first in range(0, values.size, _BLOCK):
        block = values[first : first + _BLOCK]
        wide = scratch[: block.size]
        with np.errstate(invalid="ignore"):  # a signalling NaN
            np.copyto(wide, block)
            sums.append(float(np.square(wide, out=wide).sum()))  # not np.dot: BLAS may add in any order
    return math.fsum(sums) if all(map(math.isfinite, sums)) else math.nan


def _round(values: Vector, factor: float, out: NDArray[np.int32]) -> int:
    """Write values times factor as integers to `out`; the sum of their squares."""
    scratch = np.empty(min(_BLOCK, max(1, values.size)), np.float64)
    squares = 0
    for first in range(0, values.size, _BLOCK):
        block = values[first : first + _BLOCK]
        levels = scratch[: block.size]
        np.copyto(levels, block)
        levels *= factor
        np.rint(levels, out=levels)
        out[first : first + block.size] = levels
        squares += int(np.dot(levels, levels))  # of integers below 2**26: exact in any order, see MAX_REACH
    return squares
