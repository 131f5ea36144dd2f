from __future__ import annotations

import math
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from leader.aggregation.weighting import (
    Bounded,
    ByExamples,
    Clipped,
    Facts,
    FedNova,
    QFedAvg,
    Stale,
    Uniform,
    Weighting,
    heaviest,
    make_weighting,
)
from leader.config import RunConfig
from utils.errors import PayloadError, ValueRangeError

FACTS = Facts(30, local_steps=4, loss=1.0, start_loss=2.0, staleness=3, squared_norm=25.0)


def test_examples_weigh_and_uniform_does_not() -> None:
    assert (ByExamples().weight(FACTS), ByExamples().factor(FACTS), ByExamples().finish([FACTS])) == (
        30,
        1.0,
        1.0,
    )
    assert (Uniform().weight(FACTS), Uniform().factor(FACTS), Uniform().finish([FACTS])) == (1, 1.0, 1.0)


def share_of_gradients(steps: int, momentum: float, nesterov: bool) -> list[float]:
    """How much each local gradient weighs in the local change, by running SGD on unit vectors."""
    shares = []
    for one in range(steps):
        velocity = moved = 0.0
        for step in range(steps):
            gradient = float(step == one)
            velocity = momentum * velocity + gradient
            moved += gradient + momentum * velocity if nesterov else velocity
        shares.append(moved)
    return shares


@given(steps=st.integers(1, 40), momentum=st.floats(0, 0.99), nesterov=st.booleans())
def test_fednovas_norm_is_the_sum_of_what_each_gradient_weighs(
    steps: int, momentum: float, nesterov: bool
) -> None:
    expected = math.fsum(share_of_gradients(steps, momentum, nesterov))
    assert FedNova(momentum, nesterov).norm(steps) == pytest.approx(expected, rel=1e-9)


def test_fednova_without_momentum_divides_by_the_steps() -> None:
    weighting = FedNova()
    assert weighting.factor(FACTS) == 0.25
    # tau_eff = 3/4 of 4 + 1/4 of 8
    assert weighting.finish([FACTS, Facts(10, local_steps=8)]) == 5.0


def test_q_fedavg_by_hand() -> None:
    weighting = QFedAvg(q=2.0, lipschitz=10.0)
    low = Facts(30, start_loss=1.0, squared_norm=0.5)
    assert (weighting.weight(FACTS), weighting.factor(FACTS), weighting.factor(low)) == (1, 4.0, 1.0)
    # h = q F^(q-1) L^2 |delta|^2 + L F^q
    high, little = 2 * 2 * 100 * 25 + 10 * 4, 2 * 1 * 100 * 0.5 + 10
    assert weighting.finish([FACTS, low]) == pytest.approx(2 * 10 / (high + little), rel=1e-15)


def test_q_fedavg_with_q_0_counts_everybody_the_same() -> None:
    weighting = QFedAvg(q=0.0, lipschitz=10.0)
    some = [replace(FACTS, start_loss=loss) for loss in (0.0, 1e-9, 3.0, 1e9)]
    assert {weighting.factor(one) for one in some} == {1.0}
    assert weighting.finish(some) == 1.0


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0, 10.0])
def test_a_loss_of_zero_has_finite_terms(q: float) -> None:
    weighting = QFedAvg(q, lipschitz=10.0)
    facts = replace(FACTS, start_loss=0.0)
    assert math.isfinite(weighting.factor(facts))
    assert 0 < weighting.finish([facts]) < math.inf


@pytest.mark.parametrize("loss", [math.nan, -0.1, math.inf, -math.inf, 2e19, 1e300])
def test_q_fedavg_refuses_a_start_loss_that_is_none(loss: float) -> None:
    with pytest.raises(PayloadError, match=r"tells a start_loss of .*; aggregate.weighting=qfedavg needs"):
        QFedAvg(10.0, 10.0).factor(replace(FACTS, start_loss=loss))
    assert math.isfinite(QFedAvg(10.0, 10.0).factor(replace(FACTS, start_loss=2.0**64)))


def test_stale_updates_count_less_and_the_divisor_stays() -> None:
    weighting = Stale(ByExamples(), 0.5)
    assert [weighting.factor(replace(FACTS, staleness=s)) for s in (0, 3, 8)] == [1.0, 0.5, 1 / 3]
    assert (weighting.weight(FACTS), weighting.finish([FACTS])) == (30, 1.0)
    assert Stale(ByExamples(), 0.0).factor(FACTS) == 1.0


def test_clipping_scales_down_and_the_inner_weighting_sees_the_clipped_norm() -> None:
    assert Clipped(Uniform(), 2.0).factor(FACTS) == 0.4
    assert Clipped(Uniform(), 5.0).factor(FACTS) == 1.0
    fair = QFedAvg(1.0, 10.0)
    assert Clipped(fair, 2.0).finish([FACTS]) == fair.finish([replace(FACTS, squared_norm=4.0)])
    assert Clipped(fair, 9.0).finish([FACTS]) == fair.finish([FACTS])


def test_norms_beyond_the_bound_are_refused() -> None:
    assert Bounded(FedNova(), 5.0).factor(FACTS) == 0.25
    with pytest.raises(ValueRangeError, match="norm of 5; up to 4 is taken"):
        Bounded(FedNova(), 4.0).factor(FACTS)


def test_wrappers_work_together() -> None:
    weighting = Bounded(Clipped(Stale(FedNova(), 0.5), 2.5), 6.0)
    assert weighting.factor(FACTS) == 0.25 * 0.5 * 0.5
    assert (weighting.weight(FACTS), weighting.finish([FACTS])) == (30, 4.0)
    assert weighting.needs_norm
    assert not Stale(FedNova(), 0.5).needs_norm
    assert Stale(QFedAvg(1.0, 1.0), 0.5).needs_norm


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, ByExamples()),
        ({"aggregate": {"weighting": "uniform"}}, Uniform()),
        (
            {"aggregate": {"weighting": "fednova"}, "train": {"momentum": 0.5, "nesterov": True}},
            FedNova(0.5, nesterov=True),
        ),
        ({"aggregate": {"weighting": "qfedavg", "q": 2.0}, "train": {"lr": 0.25}}, QFedAvg(2.0, 4.0)),
        ({"buffer": {"size": 3, "exponent": 0.25}}, Stale(ByExamples(), 0.25)),
        (
            {"buffer": {"size": 3}, "aggregate": {"clip_norm": 2.0, "reject_norm": 9.0}},
            Bounded(Clipped(Stale(ByExamples(), 0.5), 2.0), 9.0),
        ),
    ],
)
def test_the_config_says_what_counts(settings: dict[str, object], expected: Weighting) -> None:
    assert make_weighting(RunConfig.model_validate(settings)) == expected


@given(
    others=st.lists(st.integers(1, 1_000_000), min_size=1, max_size=8),
    share=st.floats(0.01, 0.99),
)
def test_the_heaviest_update_is_the_largest_that_makes_up_no_more_than_its_share(
    others: list[int], share: float
) -> None:
    def fits(weight: int) -> bool:
        return weight <= Fraction(share) * (weight + sum(min(other, weight) for other in others))

    most = heaviest(others, share)
    assert heaviest(reversed(others), share) == most
    if (len(others) + 1) * Fraction(share) < 1:  # no weights are so even
        assert most == min(others)
    else:
        assert fits(most)
        assert not fits(most + 1)
