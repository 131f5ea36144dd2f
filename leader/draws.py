"""Random choices that are the same on every machine and with every NumPy release."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


class Draws:
    """Choices from the raw 64-bit numbers of PCG64, which NumPy keeps the same for ever.

    Nothing but comparisons and IEEE arithmetic is done with them: no logarithm or power, whose last
    bit differs between libraries.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def permutation(self, count: int) -> NDArray[np.int64]:
        """0..count-1 in random order."""
        return np.argsort(self._bits.random_raw(count), kind="stable")

    def below(self, bound: int | NDArray[np.int64], count: int) -> NDArray[np.int64]:
        """`count` integers, each from 0 to its `bound` - 1."""
        return (self._bits.random_raw(count) % np.asarray(bound, np.uint64)).astype(np.int64)

    def urns(self, sizes: NDArray[np.int64], parts: int, alpha: float) -> NDArray[np.int64]:
        """A part for each of `sizes.sum()` examples, shares within each run of `sizes` by Dirichlet(alpha).

        Pólya's urn (Blackwell and MacQueen 1973, https://doi.org/10.1214/aos/1176342372): an example with n
        before it in its run takes the part of one of them with probability n / (n + parts * alpha), else any
        part. That is the same as to draw the shares of the parts from Dirichlet(alpha, ..., alpha) and then a
        part for each example by these shares, in any order; and it works for any alpha > 0, where gamma
        variates would underflow.
        """
        place = np.arange(sizes.sum())
        before = place - np.repeat(np.cumsum(sizes) - sizes, sizes)
        unit = ((self._bits.random_raw(len(place)) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
        with np.errstate(over="ignore"):  # infinity says "never" just as well
            fresh = unit * (before / (parts * alpha)) < 1 - unit
        choice = self.below(parts, len(place))
        copied = place - 1 - self.below(np.maximum(before, 1), len(place))
        source = np.where(fresh, place, copied)
        # Whoever is copied may be a copy too: each pass doubles the steps towards the first of the chain.
        while not np.array_equal(source, further := source[source]):
            source = further
        return choice[source]
