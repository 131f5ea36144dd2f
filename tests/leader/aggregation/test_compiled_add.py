from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from leader.aggregation import compiled_add
from leader.aggregation.compiled_add import ROUND, compile_add, compiled
from leader.aggregation.exact_sum import ExactSum, Scale
from tests.tools.needs import needs
from utils.errors import ValueRangeError
from utils.vector import Vector

SCALE = Scale.of(4.0, 1 << 20)
SIZE = 10_000  # some of the loop's blocks, and a part of one


def bits(updates: list[tuple[Vector, int, float]]) -> bytes:
    total = ExactSum(SIZE, SCALE)
    for values, weight, factor in updates:
        total.add(values[:3_001], weight, 0, factor)
        total.add(values[3_001:], weight, 3_001, factor)
    total.count(1)
    return total.whole().tobytes() + total.mean().tobytes()


@pytest.fixture
def loops(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []
    monkeypatch.setattr(compiled_add, "_loops", found)
    return found


@needs("numba")
def test_the_compiled_loop_and_numpy_leave_the_same_bits(loops: list[object]) -> None:
    draws = np.random.default_rng(0)
    tiny = np.float32(2.0) ** draws.integers(-149, 2, SIZE).astype(np.float32)  # subnormal ones too
    ties = (draws.integers(-9, 9, SIZE) + 0.5).astype(np.float32) * np.float32(2.0**-SCALE.fraction_bits)
    dense = draws.uniform(-4, 4, SIZE).astype(np.float32)
    unaligned = np.frombuffer(b"?" + dense.tobytes(), np.uint8)[1:].view(np.float32)
    updates = [
        (values, weight, factor)
        for values in (tiny, ties, dense, unaligned)
        for weight, factor in ((1, 1.0), (99_991, 1 / 3), (7, 0.0), (-5, 0.999))
    ]
    by_numpy = bits(updates)
    compile_add(1 << 20)
    assert len(loops) == 1
    assert bits(updates) == by_numpy


@pytest.mark.usefixtures("addition")
@pytest.mark.parametrize("place", [0, 1023, 1024, SIZE - 1])
@pytest.mark.parametrize("bad", [np.nan, -np.inf, np.float32(4.0000005), ROUND])
def test_a_bad_value_in_any_block_adds_nothing(bad: float, place: int) -> None:
    good = np.random.default_rng(1).uniform(-4, 4, SIZE).astype(np.float32)
    values = good.copy()
    values[place] = bad
    for before in ([], [good]):
        total, expected = ExactSum(SIZE, SCALE), ExactSum(SIZE, SCALE)
        for one in before:
            total.add(one, 3)
            expected.add(one, 3)
        total._sums[SIZE - 1] += not before  # what memory may hold
        with pytest.raises(ValueRangeError, match="finite values within"):
            total.add(values, 5)
        assert total.whole().tobytes() == expected.whole().tobytes()


def test_small_sums_and_a_machine_without_numba_are_left_to_numpy(
    loops: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    compile_add((1 << 20) - 1)
    monkeypatch.setitem(sys.modules, "numba", None)
    compile_add(1 << 20)
    assert compiled() is None
    assert not loops


def test_a_numba_that_does_not_fit_is_told_of_and_numpy_adds(
    loops: list[object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "numba", ModuleType("numba"))  # one without what is needed
    compile_add(1 << 20)
    assert compiled() is None
    assert "NumPy adds, slower" in caplog.text
