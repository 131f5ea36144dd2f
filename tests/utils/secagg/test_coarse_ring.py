"""The ring of 16 bits: exact sums, rounding at random whose loss is fed back, and the range that values ask for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from protos import leader_pb2
from tests.secagg import MODEL, Cohort, order, plan
from utils.codecs.base import State
from utils.codecs.blocks import Uniform
from utils.errors import ValueRangeError
from utils.secagg.ring import RANGES, Ring, Words
from utils.secagg.roster import order_bytes
from utils.secagg.update import facts_of, facts_size, ring_of, words_of
from utils.vector import Vector

SIZE = 1000
PLAN = plan(5, bits=16, range=0.25, weight_bound=32)


def update(of: int, size: int = SIZE) -> Vector:
    """What a learner has learnt in a round."""
    made: Vector = np.random.default_rng(of).normal(0, 0.02, size).astype(np.float32)
    return made


def signed(words: Words) -> list[int]:
    levels: list[int] = words.view(np.int16).astype(int).tolist()
    return levels


def test_the_masked_sum_is_that_of_the_levels_with_one_learner_lost() -> None:
    cohort = Cohort(5, bits=16, range=0.25)
    names = cohort.names
    cohort.do(cohort.session.open())
    plain = {name: words_of(cohort.plan, update(at), SIZE, 1, 0.5)[0] for at, name in enumerate(names)}
    total, wide = np.zeros(SIZE, np.uint16), np.zeros(0, np.uint64)
    for name in names[1:]:
        words = plain[name].copy()
        cohort.members[name].mask(words, wide.copy(), MODEL)
        assert np.mean(words == plain[name]) < 0.01
        total += words
    cohort.lose(names[0])
    cohort.do(cohort.session.close(set(names[1:]), 0.0))
    cohort.do(cohort.session.unmask(0.0))
    found, _ = cohort.unmask((total, wide))
    exact = np.sum([signed(plain[name]) for name in names[1:]], axis=0)
    assert signed(found) == exact.tolist()
    mean = np.mean([update(at) for at in range(1, 5)], axis=0)
    assert np.abs(ring_of(cohort.plan).means(found, 4) - mean).max() <= 1 / ring_of(cohort.plan).scale


def test_at_the_limit_no_sum_of_all_wraps() -> None:
    for parties in (3, 16, 258):
        ring = Ring(16, parties, 8.0)
        words, beyond = ring.levels(np.array([9, -9, 8], np.float32), 1.0, Uniform(1, 3))
        total = [level * parties for level in signed(words)]
        assert (beyond, max(map(abs, total)) <= 32767, total[0]) == (2, True, ring.limit * parties)


def test_over_many_rounds_what_was_sent_is_what_was_meant_up_to_one_level() -> None:
    """Of a learner whose updates are far below a level, too: rounding alone would send nothing of them."""
    coarse = leader_pb2.MaskPlan(bits=16, parties=256, range=8.0, weight_bound=32)
    ring, share, rounds = ring_of(coarse), 24 / 32, 200
    steps = [update(7) * np.float32(1 + math.sin(of)) for of in range(rounds)]
    kept: State = {}
    sent, alone = np.zeros(SIZE), np.zeros(SIZE)
    for of, meant in enumerate(steps):
        words, _, kept = words_of(coarse, meant, SIZE, 24, 0.5, kept, of)
        sent += np.array(signed(words)) / (ring.scale * share)
        alone += np.array(signed(ring.levels(meant, share)[0])) / (ring.scale * share)
    level = 1 / (ring.scale * share)
    assert np.abs(steps[0]).max() < level
    missed = np.abs(sent - np.sum(steps, axis=0, dtype=np.float64)).max()
    assert missed <= level + 1e-4  # of 200 sums in float32
    assert np.abs(alone - np.sum(steps, axis=0)).max() > 20 * level


def test_rounding_is_right_on_the_mean_and_its_bits_are_those_of_the_seed() -> None:
    values = np.full(40_000, 0.3 / ring_of(PLAN).scale, np.float32)
    words, other = (words_of(PLAN, values, values.size, 32, 0.5, {}, seed)[0] for seed in (1, 2))
    assert set(signed(words)) == {0, 1}
    assert np.mean(signed(words)) == pytest.approx(0.3, abs=4.4 * math.sqrt(0.21 / 40_000))
    assert signed(words) == signed(words_of(PLAN, values, values.size, 32, 0.5, {}, 1)[0]) != signed(other)


def test_what_saturated_comes_later_and_at_most_once_the_range() -> None:
    values = np.array([0.3, -0.3, 1e6], np.float32)
    _, wide, kept = words_of(PLAN, values, 3, 32, 0.5, {}, 1)
    assert facts_of(wide, PLAN, 1).saturated == 3
    (left,) = kept.values()
    assert left == pytest.approx([0.05, -0.05, 0.25], abs=1e-6)


def test_other_rings_keep_nothing_and_tell_no_counts() -> None:
    for bits in (32, 64):
        fine = plan(5, bits=bits, range=0.25, fraction_bits=20)
        words, wide, kept = words_of(fine, update(1), SIZE, 24, 0.5)
        assert (words.itemsize, wide.size, kept) == (bits // 8, facts_size(bits), {})
        assert wide.tolist() == [24, 12 * 2**24, 0]


def test_what_is_no_number_is_refused_whatever_is_fed_back() -> None:
    kept: State = {"masks.residual": np.zeros(2, np.float32)}
    for before in ({}, kept):
        for bad in (math.nan, math.inf):
            with pytest.raises(ValueRangeError, match="not finite"):
                words_of(PLAN, np.array([0.0, bad], np.float32), 2, 24, 0.5, before)


def test_orders_are_alike_whatever_each_learner_was_told_of_its_own() -> None:
    work = [order("a", PLAN, counted_round=counted) for counted in (1, 2)]
    assert order_bytes(work[0]) == order_bytes(work[1])


def test_values_are_counted_by_powers_of_two_of_the_range() -> None:
    ring = Ring(16, 4, 8.0)
    values = np.array([0, 9, -4, 3.999, 2, -1.5, 8 * 2.0**-16, 8 * 2.0**-17], np.float32)
    found = ring.counts(values, 1.0).tolist()
    assert found == [int(np.count_nonzero(np.abs(values) >= 8 * 2.0**-by)) for by in range(1, RANGES + 1)]
    assert ring.counts(values, 0.5)[0] == 1


@pytest.mark.parametrize("start", [2.0**-9, 0.25, 8.0, 1000.0])
def test_the_range_comes_to_hold_all_but_a_few_values_and_stays(start: float) -> None:
    values, reach = update(3, 200_000), start
    found = []
    for _ in range(5):
        ring = Ring(16, 4, reach)
        counts, (_, beyond) = ring.counts(values, 1.0), ring.levels(values, 1.0, Uniform(1, 1 << 16))
        reach = ring.next_reach(beyond, counts, values.size)
        found.append(reach)
    assert found[-1] == found[-2]
    assert np.mean(np.abs(values) > reach / 2) <= 1e-5 < np.mean(np.abs(values) > reach / 4)
