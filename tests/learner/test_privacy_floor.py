"""What a learner asks of the privacy of runs: promises that are enough, and work that keeps them."""

from __future__ import annotations

import math
from typing import Any

import pytest

from learner.privacy_floor import PrivacyFloor
from protos import leader_pb2
from tests.secagg import order, plan
from utils.errors import PayloadError


def run(**promise: Any) -> leader_pb2.RunDescription:
    said = {"mode": "central", "epsilon": 4.0, "delta": 1e-5, **promise}
    return leader_pb2.RunDescription(dp=leader_pb2.DpPromise(**said))


def work(**said: Any) -> leader_pb2.WorkOrder:
    return order("a", plan(4), local_steps=2, **said)


@pytest.mark.parametrize(
    ("promise", "why"),
    [
        ({"mode": ""}, r"promises no differential privacy, .* no run without \(--require-dp 4\)"),
        ({"mode": "perfect"}, "promises 'perfect', which is no differential privacy"),
        (
            {"epsilon": 4.01},
            r"epsilon 4.01 at delta 1e-05 is promised, this learner asks for 4 at 0.0001 or less",
        ),
        ({"epsilon": 0.0}, "epsilon 0 at"),
        ({"epsilon": math.nan}, "epsilon nan at"),
        ({"delta": 1e-3}, "at delta 0.001 is promised"),
        ({"delta": 0.0}, "at delta 0 is promised"),
        ({"delta": math.nan}, "at delta nan is promised"),
    ],
)
def test_a_run_that_promises_less_is_refused_and_by_whoever_does_not_ask_taken(
    promise: dict[str, Any], why: str
) -> None:
    with pytest.raises(PayloadError, match=why):
        PrivacyFloor(4.0).registered(run(**promise))
    PrivacyFloor().registered(run(**promise))


def test_a_run_without_any_promise_is_refused() -> None:
    with pytest.raises(PayloadError, match="promises no differential privacy"):
        PrivacyFloor(4.0).registered(leader_pb2.RunDescription())


@pytest.mark.parametrize("mode", ["central", "distributed", "examples"])
def test_a_run_that_promises_as_much_is_taken(mode: str) -> None:
    PrivacyFloor(4.0).registered(run(mode=mode, delta=1e-4))


def test_work_without_the_noise_that_was_promised_is_refused() -> None:
    for mode, why in (
        ("distributed", "an update without a share of noise"),
        ("examples", "work without noise for each example"),
    ):
        for floor in (PrivacyFloor(4.0), PrivacyFloor()):
            floor.registered(run(mode=mode))
        with pytest.raises(
            PayloadError, match=f"dp.mode of this run is {mode}, but the leader asks for {why}"
        ):
            _asked(mode).check(work())
        PrivacyFloor().check(work())
    _asked("central").check(work())


def test_steps_with_more_than_the_budget_are_refused() -> None:
    plan = leader_pb2.ExamplePlan(clip=1.0, epsilon=4.0, delta=1e-5, rounds=3)
    _asked("examples").check(work(examples=plan))
    plan.epsilon = 5.0
    with pytest.raises(PayloadError, match="epsilon 5 at delta 1e-05"):
        _asked("examples").check(work(examples=plan))


def test_shares_of_noise_that_spend_the_budget_at_once_are_refused() -> None:
    """Four shares of 2,049 levels: over a reach of 3,700 noise of 1.11 times an update, which spends 3.9."""
    _asked("distributed").check(work(noise=leader_pb2.NoisePlan(clip=1.0, reach=3700, spread=[32])))
    less = work(noise=leader_pb2.NoisePlan(clip=1.0, reach=3800, spread=[32]))
    with pytest.raises(
        PayloadError, match=r"noise of 1.08 times an update .* alone spends epsilon 4.0\d of 4 "
    ):
        _asked("distributed").check(less)
    PrivacyFloor().check(less)
    looser = PrivacyFloor(8.0)  # of which the run promised half
    looser.registered(run(mode="distributed"))
    with pytest.raises(PayloadError, match=r"alone spends epsilon 4.0\d of 4 "):
        looser.check(less)


def _asked(mode: str) -> PrivacyFloor:
    floor = PrivacyFloor(4.0)
    floor.registered(run(mode=mode))
    return floor


def test_noise_without_masks_is_refused_by_name() -> None:
    order = work(noise=leader_pb2.NoisePlan(clip=1.0, reach=3700, spread=[32]))
    order.ClearField("masking")
    with pytest.raises(PayloadError, match="0 updates with noise don't fit into 0 bits"):
        _asked("distributed").check(order)
