"""The exact weighted sum: values in 64-bit fixed point, added as integers.

Integer addition is associative and commutative, so the sum has the same bits whatever the order
of arrival and however many partial sums were merged; the mean is taken once, at the end.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.compiled_add import ROUND, ROUND_BITS, compiled
from utils.errors import LimitError, ValueRangeError

_BLOCK = 1 << 16  # elements; 512 KiB of float64 stays in the L2 cache through all passes
_MAX_FRACTION_BITS = 40


@dataclass(frozen=True)
class Scale:
    """How the values of one exchange map to integers; part of the round plan.

    A value x stands as round(x * 2**fraction_bits); |x| <= max_abs, and the weights of all
    updates together stay within max_weight, so that no sum can overflow.
    """

    fraction_bits: int
    max_abs: float
    max_weight: int
    heaviest: int = sys.maxsize  # an update counts no more than that

    @classmethod
    def of(cls, max_abs: float, max_weight: int, heaviest: int = sys.maxsize) -> Scale:
        """The finest scale for these bounds; max_weight is rounded up to a power of two.

        Raises LimitError where fewer than 16 fraction bits would be left.
        """
        weight_bits = max(1, max_weight - 1).bit_length()
        range_bits = math.frexp(max_abs)[1]
        fraction_bits = min(_MAX_FRACTION_BITS, 62 - weight_bits - range_bits, 50 - range_bits)
        if fraction_bits < 16:
            raise LimitError(
                f"a total weight of {max_weight} with values up to {max_abs:g} leaves {fraction_bits} fraction bits "
                "in the exact sum, at least 16 are needed; lower aggregate.max_abs"
            )
        return cls(fraction_bits, max_abs, 1 << weight_bits, heaviest)


class ExactSum:
    """Sum of weight * factor * value over updates of `size` elements."""

    def __init__(self, size: int, scale: Scale) -> None:
        self.scale = scale
        self.weight = 0
        self.size = size
        #: Elements that `_sums` has; those from here on are zero without standing there. To clear a model's
        #: sums, and to read them again for the first update, takes as long as half an addition.
        self._filled = 0

    @classmethod
    def of(cls, words: NDArray[np.uint64], weight: int, scale: Scale) -> ExactSum:
        """The sum that (size,) words stand for, which were added elsewhere with this weight in all."""
        made = cls(words.size, scale)
        made._sums, made._filled, made.weight = words.view(np.int64), words.size, weight
        return made

    @cached_property
    def _sums(self) -> NDArray[np.int64]:
        return np.empty(self.size, np.int64)  # not before something is added: there may be nothing

    def check_weight(self, weight: int) -> None:
        """Raise LimitError if `weight` can't be added."""
        if not 0 < weight <= self.scale.max_weight - self.weight:
            raise LimitError(
                f"weight {weight} is outside 1..{self.scale.max_weight - self.weight} of the round plan"
            )

    def add(self, values: NDArray[np.float32], weight: int, start: int = 0, factor: float = 1.0) -> None:
        """Add weight * factor * values to the elements from `start` on, or nothing; `check_weight` must have passed.

        A negative weight takes out again what the positive one has added. Raises ValueRangeError.
        """
        is_first = start >= self._filled
        self._fill(start if is_first else start + values.size)
        if (loop := compiled()) is None or not values.flags.aligned:
            check_range(values, self.scale.max_abs, factor)
            self._add_blocks(values, weight, start, factor, is_first)
            self._filled = max(self._filled, start + values.size)
            return
        one, target = 2.0**self.scale.fraction_bits, self._sums[start : start + values.size]
        most = _bound(self.scale.max_abs) * one
        added = loop(values, target, factor * one, most, weight, is_first)
        self._filled = max(self._filled, start + added)
        if added < values.size:
            self.add(values[:added], -weight, start, factor)
            raise _out_of_range(values, self.scale.max_abs, factor)

    def _add_blocks(
        self, values: NDArray[np.float32], weight: int, start: int, factor: float, is_first: bool
    ) -> None:
        # A power of two: the products below are those of `factor` alone, rounded once, and shifted.
        factor *= 2.0**self.scale.fraction_bits
        scratch = np.empty(min(_BLOCK, max(1, values.size)), np.float64)
        products = np.empty(scratch.size, np.float32)
        # float32 multiplies by a power of two as exactly as float64 does, and faster.
        narrow = math.frexp(factor)[0] == 0.5 and 1.0 <= factor < 2.0**64
        correction = np.int64(_wrap(-weight * ROUND_BITS))
        sums = self._sums
        with np.errstate(over="ignore"):
            for first in range(0, values.size, _BLOCK):
                block = values[first : first + _BLOCK]
                scaled = scratch[: block.size]
                if narrow:
                    np.copyto(scaled, np.multiply(block, np.float32(factor), out=products[: block.size]))
                else:
                    np.multiply(block, factor, out=scaled, dtype=np.float64)
                scaled += ROUND
                # The bits of (integer + ROUND) are integer + ROUND_BITS; times weight, that
                # constant leaves again modulo 2**64, and the true sum fits by the plan.
                whole = scaled.view(np.int64)
                whole *= weight
                target = sums[start + first : start + first + block.size]
                if is_first:
                    np.add(whole, correction, out=target)
                else:
                    whole += correction
                    target += whole

    def _fill(self, stop: int) -> None:
        """Have at least the elements before `stop` stand in `_sums`."""
        if stop > self._filled:
            self._sums[self._filled : stop] = 0
            self._filled = stop

    def whole(self) -> NDArray[np.int64]:
        """The sums of all elements, (size,)."""
        self._fill(self.size)
        return self._sums

    def count(self, weight: int) -> None:
        """Record the weight of an update whose values are all added."""
        self.weight += weight

    def merge(self, other: ExactSum) -> None:
        """Add a partial sum made elsewhere under the same scale; raises LimitError if they differ."""
        if other.scale != self.scale or other.size != self.size:
            raise LimitError("partial sums of different scale or size can't be merged")
        sums = self.whole()
        sums += other.whole()
        self.weight += other.weight

    def mean(self, out: NDArray[np.float32] | None = None, scalar: float = 1.0) -> NDArray[np.float32]:
        """`scalar` times the weighted mean, (size,) float32, written to `out` where given.

        Zero where nothing was added.
        """
        whole = self.whole()
        mean = np.empty(whole.size, np.float32) if out is None else out
        divisor = float(self.weight or 1) * 2.0**self.scale.fraction_bits / scalar
        for first in range(0, mean.size, _BLOCK):
            sums, quotient = whole[first : first + _BLOCK], mean[first : first + _BLOCK]
            np.divide(sums, divisor, out=quotient, dtype=np.float64, casting="same_kind")
        return mean


def _wrap(value: int) -> int:
    """`value` modulo 2**64 as a signed 64-bit integer."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def check_range(values: NDArray[np.float32], max_abs: float, factor: float = 1.0) -> None:
    """Raise ValueRangeError unless `factor` times all values is finite and within +-`max_abs`."""
    if values.size == 0:
        return
    low, high, most = float(values.min()) * factor, float(values.max()) * factor, _bound(max_abs)
    # NaN makes both comparisons false.
    if not (low >= -most and high <= most):
        raise _out_of_range(values, max_abs, factor)


def _bound(max_abs: float) -> float:
    """The float32 nearest to `max_abs`, which values may reach."""
    return float(np.float32(max_abs))


def _out_of_range(values: NDArray[np.float32], max_abs: float, factor: float) -> ValueRangeError:
    low, high = float(values.min()) * factor, float(values.max()) * factor
    scaled = "" if factor == 1.0 else f", times its factor of {factor:g}"
    return ValueRangeError(
        f"values from {low:g} to {high:g} in the update{scaled}; finite values within +-{max_abs:g} "
        "are taken (aggregate.max_abs)"
    )
