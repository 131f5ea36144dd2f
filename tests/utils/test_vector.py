from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from utils.vector import Recycled


def address(array: NDArray[np.uint8]) -> int:
    return int(array.__array_interface__["data"][0])


def test_memory_that_nobody_holds_is_used_again() -> None:
    memory = Recycled()
    first = memory.empty(1000)
    place = address(first)
    del first
    again = memory.empty(1000)
    assert (address(again), again.shape) == (place, (1000,))


@pytest.mark.parametrize(
    "held",
    [
        lambda array: array,
        lambda array: array[4:12].view(np.float32)[1:],
        lambda array: array.reshape(25, 40).T,
        lambda array: memoryview(array)[10:],
        lambda array: torch.from_numpy(array)[3:],
        lambda array: np.frombuffer(array.data, np.int16),
    ],
)
def test_memory_that_somebody_sees_is_not_touched(held: object) -> None:
    memory = Recycled()
    array = memory.empty(1000)
    array[:] = 7
    place = address(array)
    view = held(array)  # type: ignore[operator]
    del array
    for _ in range(5):
        other = memory.empty(1000)
        assert address(other) != place
        other[:] = 1
    assert set(bytes(np.asarray(view).tobytes())) == {7}
    del view


def test_only_as_many_as_wanted_are_kept() -> None:
    memory = Recycled(kept=2)
    arrays = [memory.empty(1 << 20) for _ in range(4)]
    places = [address(array) for array in arrays]
    arrays.clear()
    again = [memory.empty(1 << 20) for _ in range(2)]
    assert {address(array) for array in again} == set(places[2:])


def test_another_size_is_other_memory() -> None:
    memory = Recycled()
    memory.empty(1000)
    assert memory.empty(999).shape == (999,)
