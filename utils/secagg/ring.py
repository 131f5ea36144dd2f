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
        _check(values, np.inf)
        exact = np.multiply(values, share * self.scale, dtype=np.float64)
        np.rint(exact, out=exact)
        beyond = int(np.count_nonzero(np.abs(exact) > self.limit))
        np.clip(exact, -self.limit, self.limit, out=exact)
        return exact.astype(np.int64).astype(WORDS[self.bits]), beyond

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
    scaled = np.multiply(values, 2.0**fraction_bits, dtype=np.float64)
    words = np.rint(scaled, out=scaled).astype(np.int64).view(np.uint64)
    words *= np.uint64(weight)
    return words


def _check(values: Vector, max_abs: float) -> None:
    if values.size and not (np.isfinite(values).all() and np.abs(values).max() <= max_abs):
        raise ValueRangeError(f"an update with values that are not finite, or beyond +-{max_abs:g}")
