"""The exact sum's addition in one pass over memory: a loop that numba compiles, where that is installed.

NumPy checks and adds in eight passes over each block; the bits are the same. What is compiled stays in this process:
files of numba's would be read by pickle, and save a quarter of a second at a start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_log = logging.getLogger(__name__)

#: 1.5 * 2**52: adding it rounds a float64 to an integer (half to even) and leaves that integer,
#: in two's complement, in the low 51 bits of the mantissa.
ROUND = 1.5 * 2.0**52
ROUND_BITS = int(np.float64(ROUND).view(np.int64))
_BLOCK = 1024  # elements; with their sums they stay in the L1 cache from the check to the addition
_WORTH = 1 << 20  # values; with fewer, a run saves less than a second of compiling and 130 MB of compiler

_loops: list[Callable[..., int]] = []  # the compiled one, if any


def compile_add(size: int) -> None:
    """Compile the loop if sums of `size` elements are worth it; takes a second, so not on the event loop."""
    if _loops or size < _WORTH:
        return
    try:
        import numba  # an extra

        shapes = (numba.types.Array(numba.float32, 1, "C", readonly=True), numba.int64[::1])
        signature = numba.int64(*shapes, numba.float64, numba.float64, numba.int64, numba.boolean)
        _loops.append(numba.njit([signature], nogil=True)(_add))
    except ModuleNotFoundError:
        pass
    except Exception as error:  # whatever one raises that is too old for this NumPy or Python
        _log.warning("numba does not compile the sum's loop (%s); NumPy adds, slower", error)


def compiled() -> Callable[..., int] | None:
    """`_add`, compiled, where it is."""
    return _loops[0] if _loops else None


def _add(
    values: NDArray[np.float32],
    sums: NDArray[np.int64],
    unit: float,
    most: float,
    weight: int,
    is_first: bool,
) -> int:
    """Add weight * round(unit * values) to `sums`, or write it there; returns to how many.

    They are fewer than all where a block has one beyond +-`most`, or NaN: neither it nor what follows is added.
    """
    for first in range(0, values.size, _BLOCK):
        block, target = values[first : first + _BLOCK], sums[first : first + _BLOCK]
        sound = 0
        for i in range(block.size):
            sound += int(abs(np.float64(block[i]) * unit) <= most)
        if sound < block.size:
            return first
        if is_first:
            target[:] = 0
        for i in range(block.size):
            rounded = np.float64(np.float64(block[i]) * unit + ROUND).view(np.int64) - ROUND_BITS
            target[i] += rounded * weight
    return values.size
