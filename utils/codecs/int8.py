"""Codec of one byte a value: blocks of 256 with one float32 scale, rounded at random."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utils.codecs.base import Arrays, Moment, Shapes, Spec, State, count, require
from utils.codecs.blocks import LEAST_SCALE, Rounder, block_count, scaled, tiles
from utils.errors import PayloadError
from utils.seeds import derive_seed
from utils.vector import Vector

BLOCK = 256
TOP = 127
# 127 of it are still finite.
_MOST_SCALE = np.nextafter(np.finfo(np.float32).max / np.float32(TOP), np.float32(0))


class Int8:
    """Levels from -127 to 127, times a scale for each 256 values: the largest magnitude among them / 127.

    Tensors: `levels` I8 (n,) and `scales` F32 (ceil(n / 256),), 1.016 bytes a value. Rounding is random and
    unbiased, and nothing is carried over to the next encoding.
    """

    spec = "int8"

    def init(self, shapes: Shapes) -> State:
        """No state."""
        return {}

    def encode(self, values: Vector, shapes: Shapes, state: State, moment: Moment) -> tuple[Arrays, State]:
        """As `Codec.encode`; |value - decoded| is at most the block's scale, and 0 on the mean over seeds."""
        rounder = Rounder(BLOCK, TOP, _scales, derive_seed(moment.seed, self.spec))
        levels = np.empty(len(values), np.int8)
        scales = np.empty(block_count(len(values), BLOCK), "<f4")
        for tile in tiles(len(values)):
            blocks = slice(tile.start // BLOCK, block_count(tile.stop, BLOCK))
            scales[blocks] = rounder.round(values[tile], levels[tile])
        return {"levels": levels, "scales": scales}, {}

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """As `Codec.check`."""
        size = count(shapes)
        require(tensors, {"levels": ("I8", (size,)), "scales": ("F32", (block_count(size, BLOCK),))})

    def decode(self, arrays: Arrays, shapes: Shapes) -> Vector:
        """As `Codec.decode`; the values are finite."""
        levels, scales = arrays["levels"].view(np.int8), arrays["scales"].astype(np.float32)
        # As whole numbers, the bits of all that is negative, infinite or NaN are above those of the largest.
        if scales.view(np.uint32).max(initial=0) > _MOST_SCALE.view(np.uint32):
            raise PayloadError("int8: a scale is negative, not finite, or too large")
        if levels.min(initial=0) < -TOP:
            raise PayloadError("int8: level -128, but levels are from -127 to 127")
        values = np.empty(len(levels), np.float32)
        scaled(levels, scales, BLOCK, values)
        return values


def _scales(peaks: Vector) -> Vector:
    peaks /= TOP
    return np.clip(peaks, LEAST_SCALE, _MOST_SCALE)
