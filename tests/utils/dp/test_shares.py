"""Shares of noise: what a sum with some of them is worth, that they are as large as planned, and fit into the ring."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leader.dp.noise import Mechanism
from protos import leader_pb2
from tests.vectors import vectors
from utils.dp.shares import add_noise, check_noise, clipped_words, mean_of, multiplier_of, noise_of, room_of
from utils.errors import PayloadError, ValueRangeError

SIZE, KEY = 40_000, bytes(range(32))
PLAN = leader_pb2.NoisePlan(clip=2.0, reach=50_000, spread=[32])


def planned(
    multiplier: float, shares: int, bits: int = 32, parties: int = 16, **more: Any
) -> leader_pb2.NoisePlan:
    made = Mechanism.shared(
        multiplier, more.get("size", SIZE), more.get("bit", 0.0), shares, room_of(bits, parties)
    )
    return leader_pb2.NoisePlan(
        clip=2.0, reach=made.value_reach, spread=made.noise.multipliers, bit_levels=made.bit
    )


def test_a_sum_is_charged_for_the_shares_of_those_in_it_that_do_not_collude() -> None:
    for case in vectors("epsilon")["distributed"]:
        plan = planned(case["z_of_full_cohort"], case["cohort"])
        charged = multiplier_of(plan, case["in_sum"] - case["colluding"])
        assert case["z_charged"] <= charged < case["z_charged"] * (1 + 2 / plan.reach)


@pytest.mark.parametrize("shares", [3, 16])
@pytest.mark.parametrize("bit", [0.0, 5.0])
def test_what_is_planned_is_never_less_than_asked_for(shares: int, bit: float) -> None:
    for multiplier in (0.3, 1.0, 7.7):
        assert multiplier <= multiplier_of(planned(multiplier, shares, bit=bit), shares) < 1.001 * multiplier


def test_the_variance_of_the_sum_of_shares_is_the_target_within_its_bounds() -> None:
    """Five learners that send nothing but their noise, each from a key of its own: 4.4 standard errors."""
    learners, multiplier = 5, 1.5
    plan = planned(multiplier, learners)
    shares = []
    for number in range(learners):
        words = np.zeros(SIZE, np.uint32)
        add_noise(words, plan, bytes([number]) * 32, f"work-{number}")
        shares.append(words.view(np.int32).astype(np.float64))
    target = (multiplier * plan.reach) ** 2
    total = np.sum(shares, axis=0)
    assert total.var() == pytest.approx(target, rel=4.4 * math.sqrt(2 / SIZE))
    assert abs(total.mean()) < 4.4 * math.sqrt(target / SIZE)
    for number, share in enumerate(shares):
        assert share.var() == pytest.approx(target / learners, rel=4.4 * math.sqrt(2 / SIZE))
        for other in shares[:number]:
            assert abs(np.corrcoef(share, other)[0, 1]) < 4.4 / math.sqrt(SIZE)
    fourth = ((total / math.sqrt(target)) ** 4).mean()
    assert fourth == pytest.approx(3.0, abs=4.4 * math.sqrt(96 / SIZE))  # as a Gaussian's


def test_the_same_update_has_the_same_noise_and_any_other_has_other() -> None:
    values = np.linspace(-1, 1, 1000, dtype=np.float32)

    def noise(values: Any = values, key: bytes = KEY, work: str = "1-0-a") -> list[int]:
        words = clipped_words(values, PLAN, 32)
        before = words.copy()
        add_noise(words, PLAN, key, work)
        told: list[int] = (words - before).view(np.int32).tolist()
        return told

    assert noise() == noise()
    changed = values.copy()
    changed[0] = 0.5
    for other in (noise(changed), noise(key=bytes(32)), noise(work="1-0-b")):
        assert abs(np.corrcoef(noise(), other)[0, 1]) < 4.4 / math.sqrt(1000)


@settings(max_examples=200, deadline=None)
@given(
    values=st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**60), max_value=2.0**60),
        min_size=1,
        max_size=40,
    ),
    clip=st.floats(1e-3, 1e3),
    reach=st.integers(1, 1 << 20),
    bit=st.booleans(),
)
def test_no_update_is_longer_than_the_noise_is_made_for(
    values: list[float], clip: float, reach: int, bit: bool
) -> None:
    plan = leader_pb2.NoisePlan(
        clip=clip, reach=reach, spread=[32], bit_levels=2 * (reach // 3) if bit else 0
    )
    words = clipped_words(np.array(values, np.float32), plan, 32).view(np.int32)
    squares = sum(int(word) ** 2 for word in words)
    assert squares <= reach**2 + (plan.bit_levels // 2) ** 2
    assert multiplier_of(plan, 1) * math.sqrt(squares) <= noise_of(plan).accounted * (1 + 1e-12)


def test_a_value_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueRangeError, match="not finite"):
        clipped_words(np.array([1, np.nan], np.float32), PLAN, 32)


@pytest.mark.parametrize(
    ("bits", "parties", "multiplier"), [(32, 1000, 0.05), (32, 16, 1.0), (64, 9999, 0.01)]
)
def test_no_sum_of_the_longest_updates_with_the_largest_noise_wraps(
    bits: int, parties: int, multiplier: float
) -> None:
    plan = planned(multiplier, parties, bits, parties, size=1000)
    check_noise(plan, leader_pb2.MaskPlan(bits=bits, parties=parties))
    assert multiplier_of(plan, parties) < 1.02 * multiplier  # no more noise than asked for, either
    longest = plan.reach + noise_of(plan).peak
    total = np.array([longest * parties, -longest * parties]).astype(f"i{bits // 8}").view(f"u{bits // 8}")
    mean, _ = mean_of(total, plan, parties)
    assert mean.tolist() == pytest.approx([longest * 2.0 / plan.reach, -longest * 2.0 / plan.reach])


def test_finer_noise_that_the_ring_has_no_room_for_is_not_taken() -> None:
    plan = planned(0.5, 9000, 32, 9000, size=11_000_000)
    check_noise(plan, leader_pb2.MaskPlan(bits=32, parties=9000))
    assert multiplier_of(plan, 9000) == pytest.approx(0.5, rel=1e-3)


def test_the_largest_draw_is_the_peak() -> None:
    assert noise_of(PLAN).peak == 640 * 33
    assert np.abs(noise_of(PLAN).draw(KEY, 1 << 20)).max() < noise_of(PLAN).peak


def test_the_mean_and_the_share_of_those_within_the_clip_come_of_the_sum() -> None:
    plan = leader_pb2.NoisePlan(clip=2.0, reach=50_000, spread=[32], bit_levels=20_000)
    short, long = np.array([0.3, 0.4], np.float32), np.array([30, 40], np.float32)
    words = [clipped_words(values, plan, 32) for values in (short, short, short, long)]
    mean, within = mean_of(np.sum(words, axis=0, dtype=np.uint32), plan, 4)
    assert mean.tolist() == pytest.approx([(3 * 0.3 + 1.2) / 4, (3 * 0.4 + 1.6) / 4], rel=1e-4)
    assert within == 0.75


@pytest.mark.parametrize(
    ("noise", "masks", "why"),
    [
        ({"clip": 0.0}, {}, "clipped to 0 on 50000"),
        ({"clip": math.inf}, {}, "clipped to inf"),
        ({"clip": math.nan}, {}, "clipped to nan"),
        ({"reach": 0}, {}, "on 0 levels"),
        ({"reach": 1 << 26}, {}, "on 67108864 levels"),
        ({"spread": [0]}, {}, "none that can be drawn"),
        ({"spread": [65]}, {}, "none that can be drawn"),
        ({"spread": [2] * 5}, {}, "none that can be drawn"),
        ({"bit_levels": 3}, {}, "a bit of 3 levels"),
        ({}, {"parties": 0}, "0 updates with noise don't fit into 32 bits"),
        ({}, {"bits": 0}, "4 updates with noise don't fit into 0 bits"),
        ({"bit_levels": 100_002}, {}, "a bit of 100002 levels"),
        ({}, {"weight_bound": 32}, "each update counts once"),
        ({}, {"bits": 16}, "4 updates with noise don't fit into 16 bits"),
        ({}, {"parties": 40_000}, "40000 updates with noise don't fit into 32 bits"),
    ],
)
def test_a_plan_that_hides_nothing_or_does_not_fit_is_refused(
    noise: dict[str, Any], masks: dict[str, Any], why: str
) -> None:
    plan = leader_pb2.NoisePlan(**{"clip": 2.0, "reach": 50_000, "spread": [32], **noise})
    with pytest.raises(PayloadError, match=why):
        check_noise(plan, leader_pb2.MaskPlan(**{"bits": 32, "parties": 4, **masks}))
