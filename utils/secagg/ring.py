"""The rings that masked values are summed in: real numbers as integers of a fixed width, and sums as means again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import ValueRangeError
from utils.vector import Vector

WORDS: dict[int, np.dtype[np.unsignedinteger[Any]]] = {
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}
_BLOCK = 1 << 16  # values; 512 KiB of float64 stays in the cache
Words = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Ring:
    """Integers modulo 2^bits, of which `parties` values in [-reach, reach] can be summed without a wrap."""

    bits: int  # 16 or 32
    parties: int
    reach: float  # largest magnitude of a value; those beyond it saturate

    @property
    def limit(self) -> int:
        """The level of `reach`."""
        return ((1 << (self.bits - 1)) - 1) // self.parties

    @property
    def scale(self) -> float:
        """Levels that stand for 1."""
        return self.limit / self.reach

    def levels(self, values: Vector, share: float = 1.0) -> tuple[Words, int]:
        """(n,) values, times `share` in (0, 1], as (n,) words, and how many of them saturated.

        Rounded half to even. Raises ValueRangeError for values that are not finite.
        """
        words, beyond = np.empty(values.size, WORDS[self.bits]), 0
        signed, factor = words.view(f"i{self.bits // 8}"), share * self.scale
        for start in range(0, values.size, _BLOCK):
            exact = np.multiply(values[start : start + _BLOCK], factor, dtype=np.float64)
            np.rint(exact, out=exact)
            beyond += int(np.count_nonzero(~(np.abs(exact) <= self.limit)))  # NaN is beyond too
            np.clip(exact, -self.limit, self.limit, out=exact)
            with np.errstate(invalid="ignore"):
                signed[start : start + _BLOCK] = exact
        if beyond:
            _check(values, np.inf)
        return words, beyond

    def means(self, total: Words, divisor: float) -> Vector:
        """(n,) summed words as (n,) means: over `divisor`, the sum of the shares."""
        signed = total.view(f"i{self.bits // 8}")
        means: Vector = (signed / (self.scale * divisor)).astype(np.float32)
        return means


def exact_words(values: Vector, weight: int, fraction_bits: int, max_abs: float) -> NDArray[np.uint64]:
    """What an exact sum adds for (n,) values: round(x * 2^fraction_bits) * weight modulo 2^64, half to even.

    Raises ValueRangeError for values beyond +-`max_abs`.
    """
    _check(values, max_abs)
    words = np.empty(values.size, np.uint64)
    signed = words.view(np.int64)
    for start in range(0, values.size, _BLOCK):
        scaled = np.multiply(values[start : start + _BLOCK], 2.0**fraction_bits, dtype=np.float64)
        signed[start : start + _BLOCK] = np.rint(scaled, out=scaled)
    words *= np.uint64(weight)
    return words


def _check(values: Vector, max_abs: float) -> None:
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    if not (
        np.isfinite(low) and np.isfinite(high) and low >= -max_abs and high <= max_abs
    ):  # NaN passes through both
        raise ValueRangeError(f"an update with values that are not finite, or beyond +-{max_abs:g}")
