"""Blocks of values that share a scale, rounded at random so that the mean of what is decoded is the value."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from utils.vector import Vector

Levels = NDArray[np.int8]

TILE = 1 << 15  # values that are worked on at once: they and their temporaries fit into a core's own cache
#: Least scale: the smallest normal float32, so that neither it nor its reciprocal is beyond float32.
LEAST_SCALE = np.finfo(np.float32).tiny


def tiles(size: int) -> Iterator[slice]:
    """Slices of at most TILE values that cover 0 to `size`."""
    return (slice(start, min(start + TILE, size)) for start in range(0, size, TILE))


def block_count(size: int, block: int) -> int:
    """Blocks that `size` values take; the last may be short."""
    return -(-size // block)


class Uniform:
    """Numbers in (0, 1) of 16 random bits, never 0 or 1: floor(x + u) rounds x at random, and keeps whole numbers."""

    def __init__(self, seed: int, most: int) -> None:
        # NumPy promises the raw bits of its generators to stay the same (NEP 19), not what it makes of them.
        self._bits = np.random.SFC64(seed)
        self._noise = np.empty(most, np.float32)

    def draw(self, size: int) -> Vector:
        """(size,) further ones, `most` at most; the memory is that of the draw before."""
        bits = self._bits.random_raw(-(-size // 4)).astype("<u8", copy=False).view("<u2")
        noise = self._noise[:size]
        noise[:] = bits[:size]
        noise += 0.5
        noise *= 2.0**-16
        return noise


class Rounder:
    """Stochastic rounding to multiples of the blocks' scales, tile by tile, with one source of randomness.

    floor(x / scale + u), u uniform in (0, 1) (QSGD, Alistarh et al. 2017, https://arxiv.org/abs/1610.02132,
    section 3.1, with the largest magnitude in place of the norm). `u` has 16 random bits and is never 0 or
    1: as float32 has 24, x / scale + u is exact where x / scale is a whole number up to 127, so those are
    kept, and the mean is off by at most 2**-16 of a scale.
    """

    def __init__(self, block: int, top: int, scales: Callable[[Vector], Vector], seed: int) -> None:
        """For levels from -`top` to `top`; `scales` makes them of the blocks' largest magnitudes."""
        self._block = block
        self._top = top
        self._scales = scales
        self._uniform = Uniform(seed, TILE)
        self._work = np.empty(TILE, np.float32)

    def round(self, tile: Vector, levels: Levels) -> Vector:
        """Fill `levels`, as long as `tile`, and return the scales, (block_count,) float32."""
        size = len(tile)
        work = self._work[: block_count(size, self._block) * self._block]
        work[size:] = 0
        blocks = work.reshape(-1, self._block)
        np.abs(tile, out=work[:size])
        scales = self._scales(blocks.max(axis=1))
        work[:size] = tile
        blocks *= np.reciprocal(scales)[:, None]
        used = work[:size]
        used += self._uniform.draw(size)
        np.floor(used, out=used)
        # The reciprocal is rounded, so the largest may come out a little above `top`.
        np.clip(used, -self._top, self._top, out=used)
        np.copyto(levels, used, casting="unsafe")
        return scales


def scaled(levels: Levels, scales: Vector, block: int, out: Vector) -> None:
    """Write levels times their blocks' scales into `out`, (n,) float32; one rounding each."""
    whole = len(levels) // block * block
    np.multiply(
        levels[:whole].reshape(-1, block), scales[: whole // block, None], out=out[:whole].reshape(-1, block)
    )
    np.multiply(levels[whole:], scales[whole // block :], out=out[whole:])
