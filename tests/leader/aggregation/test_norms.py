from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from leader.aggregation.norms import check_norm, clip_factor, squared_norm
from model.layout import Entry, Layout
from utils.errors import ValueRangeError
from utils.wire.payload import Payload, PayloadReader, encode_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))


def payload(layout: Layout, vector: NDArray[np.float32], entries: tuple[Entry, ...]) -> Payload:
    reader = PayloadReader(max_bytes=1 << 24, header_bytes=10_000)
    reader.feed(encode_header((entry.name, "F32", entry.shape) for entry in entries))
    for entry in entries:
        reader.feed(vector[entry.start : entry.start + entry.size].tobytes())
    return reader.finish()


def test_buffers_do_not_count() -> None:
    vector = np.full(LAYOUT.total, 1e6, np.float32)
    vector[: LAYOUT.parameter_count] = 0
    vector[:2] = 3, -4
    assert squared_norm(LAYOUT, payload(LAYOUT, vector, LAYOUT.entries)) == 25.0


def test_the_order_of_the_tensors_leaves_no_trace() -> None:
    vector = np.random.Generator(np.random.PCG64(1)).normal(size=LAYOUT.total).astype(np.float32)
    found = {
        squared_norm(LAYOUT, payload(LAYOUT, vector, order))
        for order in itertools.permutations(LAYOUT.parameters)
    }
    assert len(found) == 1
    wide = vector[: LAYOUT.parameter_count].astype(np.float64)
    assert found.pop() == pytest.approx(float(wide @ wide), rel=1e-15)


def test_tensors_longer_than_a_block_are_summed_to_the_end() -> None:
    layout = Layout.of(nn.Linear(300, 501))
    vector = np.random.Generator(np.random.PCG64(1)).normal(size=layout.total).astype(np.float32)
    exact = math.fsum(float(value) ** 2 for value in vector)
    assert squared_norm(layout, payload(layout, vector, layout.entries)) == pytest.approx(exact, rel=1e-14)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_norm_of_what_is_not_finite_is_not_finite(value: float) -> None:
    vector = np.zeros(LAYOUT.total, np.float32)
    vector[3] = value
    assert not math.isfinite(squared_norm(LAYOUT, payload(LAYOUT, vector, LAYOUT.entries)))


def test_the_largest_values_do_not_overflow() -> None:
    largest = np.finfo(np.float32).max
    vector = np.full(LAYOUT.total, largest, np.float32)
    expected = LAYOUT.parameter_count * float(largest) ** 2
    assert squared_norm(LAYOUT, payload(LAYOUT, vector, LAYOUT.entries)) == pytest.approx(expected)


def test_only_norms_beyond_the_bound_are_clipped() -> None:
    assert clip_factor(25.0, 5.0) == 1.0
    assert clip_factor(0.0, 5.0) == 1.0
    assert clip_factor(25.0, 2.0) == 0.4


def test_a_norm_beyond_the_bound_is_refused_and_says_what_is_taken() -> None:
    check_norm(25.0, 5.0)
    with pytest.raises(
        ValueRangeError, match=r"an L2 norm of 5; up to 4.9 is taken \(aggregate.reject_norm\)"
    ):
        check_norm(25.0, 4.9)
    for squared in (math.nan, math.inf):
        with pytest.raises(ValueRangeError):
            check_norm(squared, 1e30)


def test_tensors_that_stay_local_do_not_count() -> None:
    vector = np.zeros(LAYOUT.total, np.float32)
    vector[:2] = 3, -4  # of 0.weight
    layout = LAYOUT.keeping(["0.bias", "1.*"])
    assert squared_norm(layout, payload(layout, vector, layout.shared)) == 25.0
