"""Float16 with one power-of-two scale: 2 bytes a value, 11 bits of precision whatever the magnitude."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.errors import PayloadError
from utils.vector import Vector

_LEAST, _MOST = -126, 100  # exponents of a scale; LIMIT in feedback.py keeps encoders below _MOST


def to_halves(values: NDArray[np.float32]) -> tuple[NDArray[np.float16], Vector]:
    """Float16 of the same shape, and the scale, (1,) float32, that they are to be multiplied with.

    The largest magnitude comes to lie in [2^14, 2^15], so nothing overflows, and values down to 2^-28 of
    the largest keep all 11 bits. Dividing by a power of two is exact, so rounding is all that is lost.
    """
    largest = float(np.abs(values).max(initial=0.0))
    scale = np.float32(math.ldexp(1.0, max(math.frexp(largest)[1] - 15, _LEAST)))
    return (values / scale).astype("<f2"), np.array([scale], "<f4")


def from_halves(halves: NDArray[Any], scale: NDArray[Any]) -> NDArray[np.float32]:
    """The values, finite float32; raises PayloadError for what `to_halves` can't have made."""
    factor = np.float32(scale[0])
    mantissa, exponent = math.frexp(factor)
    if mantissa != 0.5 or not _LEAST <= exponent - 1 <= _MOST:
        raise PayloadError(
            f"scale of F16 values is {factor}; it must be a power of 2, 2^{_LEAST} to 2^{_MOST}"
        )
    if not np.isfinite(halves).all():
        raise PayloadError("an F16 value is NaN or infinite; none is sent")
    return halves.astype(np.float32) * factor
