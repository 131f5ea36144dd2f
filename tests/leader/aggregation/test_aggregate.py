from __future__ import annotations

import itertools
import math
from dataclasses import replace
from itertools import pairwise
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from leader.aggregation.aggregate import Aggregate, mean_loss
from leader.aggregation.base import Contribution, Result
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import ByExamples
from model.layout import Entry, Layout
from utils.errors import LimitError, PayloadError, ValueRangeError
from utils.wire.payload import Payload, PayloadReader, encode_header

pytestmark = pytest.mark.usefixtures("addition")
LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
PARAMETERS, TOTAL = LAYOUT.parameter_count, LAYOUT.total
SCALE = Scale.of(1024.0, 1000)


def payload(vector: NDArray[np.float32], entries: tuple[Entry, ...] = LAYOUT.entries) -> Payload:
    header = encode_header((entry.name, "F32", entry.shape) for entry in entries)
    reader = PayloadReader(max_bytes=10_000, header_bytes=10_000)
    reader.feed(header)
    for entry in entries:
        reader.feed(vector[entry.start : entry.start + entry.size].tobytes())
    return reader.finish()


def contribution(part: int, weight: int = 1, loss: float = 0.5) -> Contribution:
    values = np.random.Generator(np.random.PCG64(part)).normal(size=TOTAL).astype(np.float32)
    return Contribution(f"part-{part}", weight, payload(values), loss)


def aggregated(*contributions: Contribution) -> Result:
    aggregate = Aggregate(LAYOUT, SCALE, ByExamples())
    for one in contributions:
        aggregate.add(one)
    return aggregate.finish()


def same(a: Result, b: Result) -> bool:
    return (a.mean.tobytes(), a.examples, a.digest) == (b.mean.tobytes(), b.examples, b.digest)


def test_the_mean_is_weighted_by_examples() -> None:
    ones, fives = np.ones(TOTAL, np.float32), np.full(TOTAL, 5, np.float32)
    result = aggregated(Contribution("a", 3, payload(ones), 2.0), Contribution("b", 1, payload(fives), 1.0))
    assert result.mean.tolist() == [2.0] * TOTAL
    assert result.examples == 4
    assert result.loss == 1.75


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_the_order_of_arrival_leaves_no_trace(weights: list[int], random: Random) -> None:
    parts = [contribution(i, weight, loss=0.1 * i) for i, weight in enumerate(weights)]
    expected = aggregated(*parts)
    random.shuffle(parts)
    result = aggregated(*parts)
    assert same(result, expected)
    assert result.loss == expected.loss


def test_tensors_may_come_in_any_order() -> None:
    values = np.arange(TOTAL, dtype=np.float32)
    expected = aggregated(Contribution("a", 2, payload(values), 1.0)).mean
    assert expected.tolist() == values.tolist()
    for entries in itertools.permutations(LAYOUT.entries):
        result = aggregated(Contribution("a", 2, payload(values, entries), 1.0))
        assert result.mean.tolist() == expected.tolist()


def test_an_update_without_buffers_leaves_their_mean_to_the_others() -> None:
    plain = Contribution("plain", 9, payload(np.full(TOTAL, 5, np.float32), LAYOUT.parameters), math.nan)
    full = Contribution("full", 1, payload(np.full(TOTAL, 15, np.float32)), math.nan)
    assert aggregated(plain).mean.tolist() == [5.0] * PARAMETERS + [0.0] * (TOTAL - PARAMETERS)
    assert aggregated(plain, full).mean.tolist() == [6.0] * PARAMETERS + [15.0] * (TOTAL - PARAMETERS)


def test_the_digest_tells_parts_weights_and_bytes_apart() -> None:
    results = [
        aggregated(contribution(1)),
        aggregated(contribution(2)),
        aggregated(contribution(1, weight=2)),
        aggregated(replace(contribution(1), part="part-2")),
        aggregated(contribution(1), contribution(2)),
    ]
    assert len({result.digest for result in results}) == len(results)
    assert aggregated(contribution(2), contribution(1)).digest == results[-1].digest


def bad_payloads() -> dict[str, tuple[Payload, type[Exception], str]]:
    values = np.zeros(TOTAL, np.float32)
    weight, bias, *_ = LAYOUT.entries
    wrong: dict[str, tuple[Payload, type[Exception], str]] = {
        "a parameter is missing": (payload(values, LAYOUT.entries[1:]), PayloadError, "lacks '0.weight'"),
        "one buffer is missing": (
            payload(values, LAYOUT.entries[:-1]),
            PayloadError,
            "lacks '1.running_var'",
        ),
        "a tensor too many": (
            payload(values, (*LAYOUT.entries, Entry("more", (1,), 0, 1))),
            PayloadError,
            "'more' that the model does not have",
        ),
        "another shape": (
            payload(values, (replace(weight, shape=(3, 2)), *LAYOUT.entries[1:])),
            PayloadError,
            r"'0.weight' as F32\[3, 2\], expected F32\[2, 3\]",
        ),
    }
    header = encode_header([(bias.name, "F64", bias.shape)])
    reader = PayloadReader(max_bytes=1000, header_bytes=1000)
    reader.feed(header + bytes(8 * bias.size))
    wrong["another dtype"] = (reader.finish(), PayloadError, r"'0.bias' as F64\[2\], expected F32\[2\]")
    for name, place in (("first parameter", 0), ("last buffer", TOTAL - 1)):
        for value in (math.nan, math.inf, 1025.0):
            poisoned = np.ones(TOTAL, np.float32)
            poisoned[place] = value
            wrong[f"{value} in the {name}"] = (payload(poisoned), ValueRangeError, "finite values within")
    poisoned = np.ones(TOTAL, np.float32)
    poisoned[-1] = math.nan
    reverse = payload(poisoned, LAYOUT.entries[::-1])
    wrong["nan in tensors of another order"] = (reverse, ValueRangeError, "finite values within")
    return wrong


@pytest.mark.parametrize("case", bad_payloads())
def test_a_refused_update_leaves_no_trace(case: str) -> None:
    bad, kind, message = bad_payloads()[case]
    aggregate = Aggregate(LAYOUT, SCALE, ByExamples())
    aggregate.add(contribution(1, 10))
    with pytest.raises(kind, match=message):
        aggregate.add(Contribution("bad", 5, bad, 100.0))
    aggregate.add(contribution(2, 20))
    result, expected = aggregate.finish(), aggregated(contribution(1, 10), contribution(2, 20))
    assert same(result, expected)
    assert result.loss == expected.loss


def test_weights_beyond_the_plan_are_refused_and_leave_no_trace() -> None:
    aggregate = Aggregate(LAYOUT, SCALE, ByExamples())  # its bound is the next power of two, 1024
    aggregate.add(contribution(1, 1000))
    with pytest.raises(LimitError, match=r"weight 25 is outside 1..24"):
        aggregate.add(contribution(2, 25))
    assert same(aggregate.finish(), aggregated(contribution(1, 1000)))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf, 1.7e308, -1.7e308, 1e39])
@pytest.mark.parametrize("weight", [1, 100])
def test_a_loss_that_cannot_be_is_left_out(loss: float, weight: int) -> None:
    result = aggregated(
        *(contribution(i, weight, loss) for i in range(3)), contribution(3), contribution(4, 1, -loss)
    )
    assert result.loss == 0.5
    assert result.examples == 3 * weight + 2


def test_the_largest_losses_that_float32_holds_are_counted() -> None:
    largest = float(np.finfo(np.float32).max)
    assert aggregated(*(contribution(i, 100, largest) for i in range(5))).loss == largest


def test_losses_are_summed_without_rounding_on_the_way() -> None:
    assert mean_loss([(1, 1e16), (1, 1.0), (2, -5e15)]) == 0.25
    assert math.isnan(mean_loss([]))


def test_an_aggregate_of_nothing_is_zero() -> None:
    result = Aggregate(LAYOUT, SCALE, ByExamples()).finish()
    assert result.mean.tolist() == [0.0] * TOTAL
    assert result.examples == 0
    assert math.isnan(result.loss)


@given(
    entries=st.sampled_from([LAYOUT.entries, LAYOUT.parameters, LAYOUT.entries[::-1]]),
    cuts=st.lists(st.integers(0, 600), max_size=8),
    keep_from=st.integers(1, 40),
)
def test_an_update_that_is_held_in_chunks_adds_the_same_bits(
    entries: tuple[Entry, ...], cuts: list[int], keep_from: int
) -> None:
    values = np.random.Generator(np.random.PCG64(0)).normal(size=TOTAL).astype(np.float32)
    data = encode_header((entry.name, "F32", entry.shape) for entry in entries)
    data += b"".join(values[entry.start : entry.start + entry.size].tobytes() for entry in entries)
    reader = PayloadReader(max_bytes=10_000, header_bytes=10_000, keep_from=keep_from)
    edges = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in pairwise(edges):
        reader.feed(data[start:stop])
    in_chunks = Contribution("part", 7, reader.finish(), 0.5)
    whole = Contribution("part", 7, payload(values, entries), 0.5)
    assert same(aggregated(in_chunks), aggregated(whole))
