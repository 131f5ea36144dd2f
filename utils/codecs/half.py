"""Codecs of two bytes a value: bfloat16 and IEEE 754 half precision."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from utils.codecs.base import Arrays, Moment, Shapes, Spec, State, count, require
from utils.errors import PayloadError
from utils.vector import Vector

_TILE = 1 << 16  # values that are worked on at once: they and their temporaries fit into a core's own cache
_BF16_MOST = np.uint32(0x7F7F0000).view(np.float32)  # largest finite bfloat16
_FP16_MOST = np.float32(65504.0)


class Bf16:
    """The upper half of each float32, rounded to nearest, ties to even: 8 bits of precision, float32's range.

    Tensor: `values` BF16 (n,). Beyond the largest bfloat16, 3.39e38, values are saturated.
    """

    spec = "bf16"

    def init(self, shapes: Shapes) -> State:
        """No state."""
        return {}

    def encode(self, values: Vector, shapes: Shapes, state: State, moment: Moment) -> tuple[Arrays, State]:
        """As `Codec.encode`; |value - decoded| is at most 2**-8 of the value, or 2**-134."""
        halves = np.empty(len(values), "<u2")
        for start in range(0, len(values), _TILE):
            tile = np.clip(values[start : start + _TILE], -_BF16_MOST, _BF16_MOST).view(np.uint32)
            # Adding just less than half of a unit rounds ties down; odd ones get the bit that takes them up.
            odd = tile >> 16
            odd &= 1
            tile += 0x7FFF
            tile += odd
            tile >>= 16
            halves[start : start + _TILE] = tile
        return {"values": halves.view("V2")}, {}

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """As `Codec.check`."""
        require(tensors, {"values": ("BF16", (count(shapes),))})

    def decode(self, arrays: Arrays, shapes: Shapes) -> Vector:
        """As `Codec.decode`; raises PayloadError for what is not finite."""
        halves = arrays["values"].view("<u2")
        values = np.empty(len(halves), np.float32)
        for start in range(0, len(halves), _TILE):
            tile = halves[start : start + _TILE].astype(np.uint32)
            tile <<= 16
            values[start : start + _TILE] = tile.view(np.float32)
            tile &= 0x7FFFFFFF
            if tile.max() >= 0x7F800000:
                raise PayloadError("bf16: a value is NaN or infinite; none is sent")
        return values


class Fp16:
    """IEEE 754 half precision, rounded to nearest, ties to even: 11 bits, saturated beyond +-65504.

    Tensor: `values` F16 (n,). What is below 6e-8 in magnitude is lost.
    """

    spec = "fp16"

    def init(self, shapes: Shapes) -> State:
        """No state."""
        return {}

    def encode(self, values: Vector, shapes: Shapes, state: State, moment: Moment) -> tuple[Arrays, State]:
        """As `Codec.encode`; |value - decoded| is at most 2**-11 of the value, or 2**-25, up to 65504."""
        halves = np.empty(len(values), "<f2")
        for start in range(0, len(values), _TILE):
            halves[start : start + _TILE] = np.clip(values[start : start + _TILE], -_FP16_MOST, _FP16_MOST)
        return {"values": halves}, {}

    def check(self, tensors: Mapping[str, Spec], shapes: Shapes) -> None:
        """As `Codec.check`."""
        require(tensors, {"values": ("F16", (count(shapes),))})

    def decode(self, arrays: Arrays, shapes: Shapes) -> Vector:
        """As `Codec.decode`; raises PayloadError for what is not finite."""
        halves = arrays["values"]
        if len(halves) and (halves.view("<u2") & 0x7FFF).max() >= 0x7C00:
            raise PayloadError("fp16: a value is NaN or infinite; none is sent")
        return halves.astype(np.float32)
