"""Codec of half a byte a value: blocks of 64 with one bfloat16 scale, rounded at random, with error feedback."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from utils.codecs.base import Arrays, Moment, Shapes, Spec, State, count, require
from utils.codecs.blocks import LEAST_SCALE, Levels, Rounder, block_count, scaled, tiles
from utils.errors import PayloadError
from utils.seeds import derive_seed
from utils.vector import Vector

BLOCK = 64
TOP = 7
_MOST = np.finfo(np.float32).max
_MOST_SCALE = int((_MOST / np.float32(TOP)).view(np.uint32)) >> 16  # bits of a bfloat16; 7 of it are finite


class Int4:
    """Levels from -7 to 7, two a byte, times a scale for each 64 values: the largest magnitude / 7, rounded up.

    Tensors: `levels` U8 (ceil(n / 2),), of two values the first in the low bits, as two's complement, and
    `scales` BF16 (ceil(n / 64),): 0.531 bytes a value. bfloat16 takes half of the bytes of float32 and has
    its range, where float16 would lose gradients below 4e-7; that the scale is up to 1/128 too large only
    makes the steps as much wider. What rounding loses is added to the next values (error feedback, Seide et
    al. 2014; Karimireddy et al. 2019, https://arxiv.org/abs/1901.09847, algorithm 2).
    State: `residual` (n,).
    """

    spec = "int4"

    def init(self, shapes: Shapes) -> State:
        """Nothing left over."""
        return {"residual": np.zeros(count(shapes), np.float32)}

    def encode(self, values: Vector, shapes: Shapes, state: State, moment: Moment) -> tuple[Arrays, State]:
        """As `Codec.encode`; |value + residual - decoded| is at most the block's scale."""
        size = len(values)
        rounder = Rounder(BLOCK, TOP, _scales, derive_seed(moment.seed, self.spec))
        packed = np.empty(-(-size // 2), np.uint8)
        scales = np.empty(block_count(size, BLOCK), "<u2")
        residual = np.empty(size, np.float32)
        for tile in tiles(size):
            rest = residual[tile]
            with np.errstate(over="ignore"):  # two finite numbers may have an infinite sum
                np.add(values[tile], state["residual"][tile], out=rest)
            np.clip(rest, -_MOST, _MOST, out=rest)
            pairs = np.zeros(len(rest) + len(rest) % 2, np.int8)
            levels = pairs[: len(rest)]
            made = rounder.round(rest, levels)
            scales[_blocks(tile)] = made.view(np.uint32) >> 16
            packed[_bytes(tile)] = _pack(pairs)
            decoded = np.empty(len(rest), np.float32)
            scaled(levels, made, BLOCK, decoded)
            rest -= decoded
        return {"levels": packed, "scales": scales.view("V2")}, {"residual": residual}

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """As `Codec.check`."""
        size = count(shapes)
        require(
            tensors, {"levels": ("U8", (-(-size // 2),)), "scales": ("BF16", (block_count(size, BLOCK),))}
        )

    def decode(self, arrays: Arrays, shapes: Shapes) -> Vector:
        """As `Codec.decode`; the values are finite."""
        size = count(shapes)
        packed, bits = arrays["levels"].view(np.uint8), arrays["scales"].view("<u2")
        # As whole numbers, the bits of all that is negative, infinite or NaN are above those of the largest.
        if bits.max(initial=0) > _MOST_SCALE:
            raise PayloadError("int4: a scale is negative, not finite, or too large")
        if size % 2 and packed[-1] >> 4:
            raise PayloadError("int4: the four bits after the last value are not zero")
        scales = (bits.astype(np.uint32) << 16).view(np.float32)
        values = np.empty(size, np.float32)
        for tile in tiles(size):
            levels = _unpack(packed[_bytes(tile)])
            if levels.min() < -TOP:
                raise PayloadError("int4: level -8, but levels are from -7 to 7")
            scaled(levels[: tile.stop - tile.start], scales[_blocks(tile)], BLOCK, values[tile])
        return values


def _blocks(tile: slice) -> slice:
    return slice(tile.start // BLOCK, block_count(tile.stop, BLOCK))


def _bytes(tile: slice) -> slice:
    return slice(tile.start // 2, (tile.stop + 1) // 2)


def _scales(peaks: Vector) -> Vector:
    peaks /= TOP
    np.maximum(peaks, LEAST_SCALE, out=peaks)
    bits = peaks.view(np.uint32)
    bits += 0xFFFF  # up to the next bfloat16, so that no value is beyond 7 scales
    bits >>= 16
    np.minimum(bits, _MOST_SCALE, out=bits)
    bits <<= 16
    return peaks


def _pack(levels: Levels) -> NDArray[np.uint8]:
    """Two levels a byte; an even number of them."""
    pairs = levels.view("<u2") & 0x0F0F
    pairs |= pairs >> 4
    return pairs.astype(np.uint8)  # the low byte


def _unpack(packed: NDArray[np.uint8]) -> Levels:
    pairs = packed.astype("<u2")
    pairs |= pairs << 4
    pairs &= 0x0F0F
    levels = pairs.view(np.int8)
    levels ^= 8  # two's complement of four bits to that of eight
    levels -= 8
    return levels
