"""The sum as it must be: integers, without any code of the aggregate."""

from __future__ import annotations

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from tests.fuzz.files import LAYOUT


class ExpectedSum:
    """Weighted sum of accepted updates in fixed point with `fraction_bits`."""

    def __init__(self, fraction_bits: int) -> None:
        self._one = float(2**fraction_bits)
        self._sum = np.zeros(LAYOUT.total, np.int64)
        self._weights = [0, 0]  # of parameters, of buffers

    def add(self, file: bytes, weight: int) -> None:
        """Add the update in a safetensors file."""
        arrays = safetensors.numpy.load(file)
        for entry in LAYOUT.entries:
            if entry.name in arrays:
                scaled = np.rint(arrays[entry.name].astype(np.float64).ravel() * self._one).astype(np.int64)
                self._sum[entry.start : entry.start + entry.size] += weight * scaled
        self._weights[0] += weight
        if LAYOUT.buffers[0].name in arrays:
            self._weights[1] += weight

    def mean(self) -> NDArray[np.float32]:
        """The weighted mean (total,)."""
        mean = np.zeros(LAYOUT.total, np.float32)
        split = LAYOUT.parameter_count
        for weight, part in zip(self._weights, (slice(0, split), slice(split, None)), strict=True):
            if weight:
                mean[part] = self._sum[part].astype(np.float64) / (weight * self._one)
        return mean
