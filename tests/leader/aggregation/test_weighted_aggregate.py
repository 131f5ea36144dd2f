"""The exact mean under every weighting."""

from __future__ import annotations

import math
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Result
from leader.aggregation.exact_sum import Scale
from leader.aggregation.weighting import (
    Bounded,
    ByExamples,
    Clipped,
    FedNova,
    QFedAvg,
    Stale,
    Uniform,
    Weighting,
)
from model.layout import Layout
from utils.errors import PayloadError, ValueRangeError
from utils.wire.payload import Payload, PayloadReader, encode_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
SPLIT, TOTAL = LAYOUT.parameter_count, LAYOUT.total
SCALE = Scale.of(1024.0, 1000)
WEIGHTINGS: list[Weighting] = [
    ByExamples(),
    Uniform(),
    FedNova(0.9, nesterov=True),
    QFedAvg(2.0, 10.0),
    Stale(ByExamples(), 0.5),
    Clipped(Uniform(), 1.0),
    Bounded(Clipped(Stale(QFedAvg(0.5, 10.0), 0.5), 1.0), 100.0),
]


def payload(vector: NDArray[np.float32]) -> Payload:
    entries = LAYOUT.entries if vector.size == TOTAL else LAYOUT.parameters
    reader = PayloadReader(max_bytes=10_000, header_bytes=10_000)
    reader.feed(encode_header((entry.name, "F32", entry.shape) for entry in entries))
    reader.feed(vector.tobytes())
    return reader.finish()


def vector(number: int) -> NDArray[np.float32]:
    return np.random.Generator(np.random.PCG64(number)).normal(size=TOTAL).astype(np.float32)


def contribution(number: int, examples: int = 10, steps: int = 5, staleness: int = 0) -> Contribution:
    return Contribution(
        f"part-{number}", examples, payload(vector(number)), 0.5, steps, 0.25 + number, staleness
    )


def aggregated(weighting: Weighting, *contributions: Contribution) -> Result:
    aggregate = Aggregate(LAYOUT, SCALE, weighting)
    for one in contributions:
        aggregate.add(one)
    return aggregate.finish()


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=repr)
@given(
    some=st.lists(
        st.tuples(st.integers(1, 100), st.integers(1, 50), st.integers(0, 9)), min_size=2, max_size=5
    ),
    random=st.randoms(use_true_random=False),
)
def test_the_order_of_arrival_leaves_no_trace(
    weighting: Weighting, some: list[tuple[int, int, int]], random: Random
) -> None:
    # Parts repeat: a buffer may hold two updates of one learner.
    updates = [replace(contribution(i, *facts), part=f"part-{i % 3}") for i, facts in enumerate(some)]
    expected = aggregated(weighting, *updates)
    random.shuffle(updates)
    result = aggregated(weighting, *updates)
    assert result.mean.tobytes() == expected.mean.tobytes()
    assert (result.examples, result.loss, result.digest) == (
        expected.examples,
        expected.loss,
        expected.digest,
    )


def test_uniform_counts_updates_and_still_tells_the_examples() -> None:
    result = aggregated(Uniform(), contribution(1, 1), contribution(2, 99))
    np.testing.assert_allclose(result.mean, (vector(1) + vector(2)) / 2, rtol=1e-6)
    assert result.examples == 100


def test_losses_are_weighted_by_examples_whatever_the_weighting() -> None:
    some = [replace(contribution(1, 3), loss=2.0), replace(contribution(2, 1), loss=1.0)]
    assert aggregated(Uniform(), *some).loss == 1.75


def test_fednova_is_the_papers_step() -> None:
    facts = [(10, 1), (20, 4), (70, 9)]
    some = [contribution(i, examples, steps) for i, (examples, steps) in enumerate(facts)]
    result = aggregated(FedNova(0.9), *some)
    norms = [sum(1 - 0.9 ** (k + 1) for k in range(steps)) / 0.1 for _, steps in facts]
    shares = [examples / 100 for examples, _ in facts]
    tau = sum(p * a for p, a in zip(shares, norms, strict=True))
    directions = [vector(i)[:SPLIT].astype(np.float64) / norms[i] for i in range(3)]
    expected = tau * sum(p * d for p, d in zip(shares, directions, strict=True))
    np.testing.assert_allclose(result.mean[:SPLIT], expected, rtol=1e-6, atol=1e-7)


def test_fednova_with_equal_steps_is_fedavg() -> None:
    some = [contribution(i, 10 * i, steps=7) for i in (1, 2, 3)]
    nova, plain = aggregated(FedNova(0.9, nesterov=True), *some), aggregated(ByExamples(), *some)
    np.testing.assert_allclose(nova.mean, plain.mean, rtol=1e-6, atol=1e-9)
    assert nova.mean[SPLIT:].tobytes() == plain.mean[SPLIT:].tobytes()


def test_q_fedavg_is_the_papers_step() -> None:
    q, lr, losses = 1.5, 0.1, [0.25, 1.25, 2.25]
    result = aggregated(QFedAvg(q, 1 / lr), *(contribution(i) for i in range(3)))
    steps = [-vector(i)[:SPLIT].astype(np.float64) / lr for i in range(3)]  # L (w - w_k)
    numerator = sum(loss**q * step for loss, step in zip(losses, steps, strict=True))
    h = [
        q * loss ** (q - 1) * float(step @ step) + loss**q / lr
        for loss, step in zip(losses, steps, strict=True)
    ]
    np.testing.assert_allclose(result.mean[:SPLIT], -numerator / sum(h), rtol=1e-6, atol=1e-9)


def test_q_fedavg_with_q_0_has_the_bits_of_the_uniform_mean() -> None:
    some = [contribution(i, 10 * i) for i in (1, 2, 3)]
    assert aggregated(QFedAvg(0.0, 10.0), *some).mean.tobytes() == aggregated(Uniform(), *some).mean.tobytes()


def test_a_stale_mean_is_divided_by_the_number_of_updates() -> None:
    some = [replace(contribution(i), staleness=s) for i, s in ((1, 0), (2, 3))]
    result = aggregated(Stale(Uniform(), 0.5), *some)
    np.testing.assert_allclose(result.mean[:SPLIT], (vector(1) + 0.5 * vector(2))[:SPLIT] / 2, rtol=1e-6)


def test_clipping_leaves_short_updates_and_shortens_long_ones() -> None:
    short, long = np.zeros(TOTAL, np.float32), np.zeros(TOTAL, np.float32)
    short[0], long[:2] = 2.0, (3e5, 4e5)  # beyond the plan's range as it is
    some = [Contribution("a", 1, payload(short), 1.0), Contribution("b", 1, payload(long), 1.0)]
    result = aggregated(Clipped(ByExamples(), 10.0), *some)
    assert result.mean[:3].tolist() == [4.0, 4.0, 0.0]


def test_buffers_count_by_their_weight_alone() -> None:
    some = [contribution(1, 10, steps=2), contribution(2, 30, steps=8)]
    plain = aggregated(ByExamples(), *some)
    for weighting in (FedNova(), Clipped(ByExamples(), 1e-3)):
        result = aggregated(weighting, *some)
        assert result.mean[SPLIT:].tobytes() == plain.mean[SPLIT:].tobytes()
        assert result.mean[:SPLIT].tobytes() != plain.mean[:SPLIT].tobytes()


def test_the_buffers_of_a_stale_update_are_averaged_as_the_values_that_they_are() -> None:
    newest = np.array([1, 2, 3, 4], np.float32)
    before = np.array([9, 9, 9, 9], np.float32)
    learned = np.array([0.5, 0.25, 8, 1], np.float32)
    delta = np.zeros(TOTAL, np.float32)
    delta[SPLIT:] = learned - before
    late = Contribution("a", 1, payload(delta), 1.0, staleness=2, buffers_shift=before - newest)
    alone = aggregated(Stale(ByExamples(), 0.5), late)
    assert (newest + alone.mean[SPLIT:]).tolist() == learned.tolist()
    unknown = aggregated(Stale(ByExamples(), 0.5), replace(late, buffers_shift=None))
    assert unknown.mean[SPLIT:].tolist() == [0.0] * 4
    fresh = contribution(1, 1)
    both = aggregated(Stale(ByExamples(), 0.5), replace(late, buffers_shift=None), fresh)
    assert both.mean[SPLIT:].tolist() == vector(1)[SPLIT:].tolist()


def test_the_digest_tells_factors_apart() -> None:
    late = [replace(contribution(1), staleness=s) for s in (0, 1, 2)]
    digests = {aggregated(Stale(ByExamples(), 0.5), one).digest for one in late}
    assert len(digests) == 3
    assert aggregated(ByExamples(), late[0]).digest in digests


@pytest.mark.parametrize(
    ("weighting", "bad", "kind"),
    [
        (QFedAvg(1.0, 10.0), replace(contribution(9), start_loss=math.nan), PayloadError),
        (QFedAvg(10.0, 10.0), replace(contribution(9), start_loss=1e9), ValueRangeError),
        (Bounded(Uniform(), 0.1), contribution(9), ValueRangeError),
        (
            Clipped(Uniform(), 1.0),
            Contribution("bad", 1, payload(np.full(TOTAL, math.nan, np.float32)), 1.0),
            ValueRangeError,
        ),
        (
            Clipped(Uniform(), 1.0),
            Contribution("bad", 1, payload(np.full(SPLIT, math.inf, np.float32)), 1.0),
            ValueRangeError,
        ),
    ],
)
def test_a_refused_update_leaves_no_trace(
    weighting: Weighting, bad: Contribution, kind: type[Exception]
) -> None:
    tiny = Contribution("tiny", 3, payload(np.full(TOTAL, 1e-3, np.float32)), 1.0, start_loss=0.5)
    aggregate = Aggregate(LAYOUT, SCALE, weighting)
    aggregate.add(tiny)
    with pytest.raises(kind):
        aggregate.add(bad)
    result, expected = aggregate.finish(), aggregated(weighting, tiny)
    assert result.mean.tobytes() == expected.mean.tobytes()
    assert (result.examples, result.digest) == (3, expected.digest)
