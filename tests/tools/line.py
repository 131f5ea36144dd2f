"""One direction of a limited link: when the bytes that were handed to it have left it."""

from __future__ import annotations

from dataclasses import dataclass

_SLICE_S = 0.008  # a limited line carries what it may carry in this time at once
_SMALLEST_CHUNK = 256  # bytes
_LARGEST_CHUNK = 256 << 10


@dataclass
class Line:
    """Bytes leave in the order they are handed over, at the rate, and a delay later.

    It keeps no clock. A caller that wakes up late has the next bytes leave the sooner, so the rate
    holds on average however coarse its timer is; time in which nothing waited is never made up for.
    """

    delay_s: float = 0.0
    bytes_per_s: float | None = None  # None is no limit
    free_at: float = 0.0  # when all that was handed over has left

    def chunk_bytes(self) -> int:
        """How many bytes may be carried at once: few where they take long, many where each costs CPU time."""
        if self.bytes_per_s is None:
            return _LARGEST_CHUNK
        return min(_LARGEST_CHUNK, max(_SMALLEST_CHUNK, int(self.bytes_per_s * _SLICE_S)))

    def carry(self, count: int, arrived_at: float) -> float:
        """The moment at which `count` bytes that have been there since `arrived_at` have left."""
        if self.bytes_per_s is None:
            return arrived_at
        self.free_at = max(arrived_at, self.free_at) + count / self.bytes_per_s
        return self.free_at
