"""The L2 norm of an update's parameters, and what bounds on it do."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from model.layout import Layout
from utils.errors import ValueRangeError
from utils.wire.payload import Payload

_BLOCK = 1 << 16  # elements; 512 KiB of float64 stays in the L2 cache


def squared_norm(layout: Layout, payload: Payload) -> float:
    """Squared L2 norm of the parameters in `payload`, which must have all shared ones; buffers don't count.

    In float64, tensor by tensor as the layout has them: the bits do not depend on the order of the
    tensors in the payload. NaN or infinite where a value is.
    """
    places = {tensor.name: tensor for tensor in payload.manifest.tensors}
    sums: list[float] = []
    for entry in layout.parameters:
        if entry.name in layout.local:
            continue
        tensor = places[entry.name]
        values = payload.data[tensor.start : tensor.stop].view(np.float32)
        sums += (_square_sum(values[first : first + _BLOCK]) for first in range(0, entry.size, _BLOCK))
    return math.fsum(sums) if all(map(math.isfinite, sums)) else sum(sums)


def _square_sum(values: NDArray[np.float32]) -> float:
    with np.errstate(invalid="ignore"):  # a signalling NaN is refused later, like any other
        wide = values.astype(np.float64)
        return float(np.square(wide, out=wide).sum())  # not np.dot: BLAS may add in any order


def clip_factor(squared: float, clip_norm: float) -> float:
    """What brings an update of this squared norm down to `clip_norm`: min(1, clip_norm / norm)."""
    norm = math.sqrt(squared)
    return clip_norm / norm if norm > clip_norm else 1.0


def check_norm(squared: float, reject_norm: float) -> None:
    """Raise ValueRangeError for an update whose norm is NaN or larger than `reject_norm`."""
    norm = math.sqrt(squared)
    if not norm <= reject_norm:
        raise ValueRangeError(
            f"update has an L2 norm of {norm:.6g}; up to {reject_norm:.6g} is taken (aggregate.reject_norm)"
        )
