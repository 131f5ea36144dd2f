"""The rings that masked values are summed in: real numbers as integers of a fixed width, and sums as means again."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.codecs.blocks import Uniform
from utils.errors import ValueRangeError
from utils.vector import Vector

WORDS: dict[int, np.dtype[np.unsignedinteger[Any]]] = {
    16: np.dtype(np.uint16),
    32: np.dtype(np.uint32),
    64: np.dtype(np.uint64),
}
COARSE = 16  # bits of the ring whose rounding is worth being fed back
FEWEST_LEVELS = 127  # to each side that a value must have there, as many as one of codec int8
RANGES = 16  # powers of two below its range that values are counted by there
_BEYOND = 1e-5  # share of the values that may be beyond half of the range of the next round
_HALF = 126  # exponent of float32 from 1/2 on
BLOCK = 1 << 16  # values; 512 KiB of float64 stays in the cache
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

    def levels(self, values: Vector, share: float = 1.0, uniform: Uniform | None = None) -> tuple[Words, int]:
        """(n,) values, times `share` in (0, 1], as (n,) words, and how many of them saturated.

        Rounded half to even, or with `uniform` at random. Raises ValueRangeError for values that are not finite.
        """
        words, beyond = np.empty(values.size, WORDS[self.bits]), 0
        signed, factor = words.view(f"i{self.bits // 8}"), share * self.scale
        room = np.empty(min(values.size, BLOCK), np.float64)
        for start in range(0, values.size, BLOCK):
            block = values[start : start + BLOCK]
            exact = np.multiply(block, factor, out=room[: block.size], dtype=np.float64)
            if uniform is None:
                np.rint(exact, out=exact)
            if not (exact.min() >= -self.limit and exact.max() <= self.limit):  # NaN is beyond too
                beyond += int(np.count_nonzero(~(np.abs(exact) <= self.limit)))
                np.clip(exact, -self.limit, self.limit, out=exact)
            if uniform is not None:
                np.floor(np.add(exact, uniform.draw(exact.size), out=exact), out=exact)
            with np.errstate(invalid="ignore"):
                signed[start : start + BLOCK] = exact
        if beyond:
            check(values, np.inf)
        return words, beyond

    def lost(self, values: Vector, words: Words, share: float) -> Vector:
        """What `levels` left out of (n,) values, (n,): at most a level, and of those that saturated the reach."""
        lost, factor = np.empty(values.size, np.float32), share * self.scale
        signed, most = words.view(f"i{self.bits // 8}"), self.reach / share
        room = np.empty(min(values.size, BLOCK), np.float64)
        for start in range(0, values.size, BLOCK):
            block = slice(start, start + BLOCK)
            sent = np.divide(signed[block], factor, out=room[: values[block].size], dtype=np.float64)
            np.subtract(values[block], sent, out=sent)
            lost[block] = np.clip(sent, -most, most, out=sent)
        return lost

    def counts(self, values: Vector, share: float) -> NDArray[np.int64]:
        """How many of (n,) values, times `share`, are at least reach / 2, reach / 4 and so on, (RANGES,)."""
        exponents, factor = np.zeros(1 << 8, np.int64), np.float32(share / self.reach)
        room = np.empty(min(values.size, BLOCK), np.float32)
        for start in range(0, values.size, BLOCK):
            block = values[start : start + BLOCK]
            ratio = np.multiply(block, factor, out=room[: block.size])
            bits = np.abs(ratio, out=ratio).view(np.int32)
            exponents += np.bincount(np.right_shift(bits, 23, out=bits), minlength=exponents.size)
        return np.cumsum(exponents[::-1])[::-1][_HALF : _HALF - RANGES : -1]

    def next_reach(self, beyond: int, counts: NDArray[np.int64], values: int) -> float:
        """The reach for the next sum, by what `levels` and `counts` said of all `values` of this one.

        Twice the least that next to none are beyond. A mean would not tell: single values are far larger.
        """
        most = _BEYOND * values
        if beyond > most:
            return 4 * self.reach
        return math.ldexp(self.reach, 1 - int(np.count_nonzero(counts <= most)))

    def means(self, total: Words, divisor: float) -> Vector:
        """(n,) summed words as (n,) means: over `divisor`, the sum of the shares."""
        signed, means = total.view(f"i{self.bits // 8}"), np.empty(total.size, np.float32)
        for start in range(0, total.size, BLOCK):
            means[start : start + BLOCK] = signed[start : start + BLOCK] / (self.scale * divisor)
        return means


def exact_words(values: Vector, weight: int, fraction_bits: int, max_abs: float) -> NDArray[np.uint64]:
    """What an exact sum adds for (n,) values: round(x * 2^fraction_bits) * weight modulo 2^64, half to even.

    Raises ValueRangeError for values beyond +-`max_abs`.
    """
    check(values, max_abs)
    words = np.empty(values.size, np.uint64)
    signed = words.view(np.int64)
    for start in range(0, values.size, BLOCK):
        scaled = np.multiply(values[start : start + BLOCK], 2.0**fraction_bits, dtype=np.float64)
        signed[start : start + BLOCK] = np.rint(scaled, out=scaled)
    words *= np.uint64(weight)
    return words


def check(values: Vector, max_abs: float) -> None:
    """Raise ValueRangeError for values that are not finite, or beyond +-`max_abs`."""
    low, high = (values.min(), values.max()) if values.size else (0.0, 0.0)
    if not (
        np.isfinite(low) and np.isfinite(high) and low >= -max_abs and high <= max_abs
    ):  # NaN passes through both
        raise ValueRangeError(f"an update with values that are not finite, or beyond +-{max_abs:g}")
