"""A robust aggregate as a round sees it: updates in, whatever their order, and one result out."""

from __future__ import annotations

import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leader.aggregation.base import Contribution, Result
from leader.aggregation.choose import open_aggregate
from leader.aggregation.exact_sum import Scale
from leader.aggregation.robust import open_robust
from leader.aggregation.robust.aggregate import RULES, RobustAggregate
from leader.config import RunConfig
from tests.leader.aggregation.robust import references
from tests.leader.aggregation.robust.array_rows import normal
from tests.leader.aggregation.robust.updates import LAYOUT, PARAMETERS, TOTAL, payload
from utils.errors import PayloadError, TooFewLearnersError, ValueRangeError
from utils.wire.payload import Payload, PayloadReader, encode_header


def config_of(rule: str, byzantine: int = 1, **aggregate: Any) -> RunConfig:
    return RunConfig.model_validate(
        {"learners": 12, "aggregate": {"rule": rule, "byzantine": byzantine, **aggregate}}
    )


def contributions(n: int, seed: int = 0) -> list[Contribution]:
    return [
        Contribution(f"part-{i:02d}", 1 + i, payload(update), 0.1 * i)
        for i, update in enumerate(normal(n, TOTAL, seed))
    ]


def aggregated(config: RunConfig, given: list[Contribution]) -> Result:
    with closing(open_robust(config, LAYOUT, None)) as aggregate:
        for one in given:
            aggregate.add(one)
        return aggregate.finish()


def same(a: Result, b: Result) -> bool:
    return (a.mean.tobytes(), a.examples, a.digest, a.loss) == (
        b.mean.tobytes(),
        b.examples,
        b.digest,
        b.loss,
    )


@pytest.mark.parametrize("rule", RULES)
def test_parameters_are_combined_by_the_rule_and_buffers_by_their_median(rule: str) -> None:
    updates = normal(8, TOTAL)
    result = aggregated(config_of(rule), contributions(8))
    expected = getattr(references, rule)(updates[:, :PARAMETERS], 1)
    np.testing.assert_allclose(result.mean[:PARAMETERS], expected, rtol=1e-5)
    np.testing.assert_allclose(
        result.mean[PARAMETERS:], np.median(updates[:, PARAMETERS:], axis=0), rtol=1e-6
    )
    assert result.mean.dtype == np.float32


@pytest.mark.parametrize("rule", RULES)
@given(n=st.integers(7, 10), random=st.randoms(use_true_random=False), seed=st.integers(0, 50))
def test_the_order_of_arrival_leaves_no_trace(rule: str, n: int, random: Random, seed: int) -> None:
    some = contributions(n, seed)
    some[2] = replace(some[2], payload=some[3].payload)  # equal updates: a tie that must not depend on it
    expected = aggregated(config_of(rule), some)
    random.shuffle(some)
    assert same(aggregated(config_of(rule), some), expected)


def test_a_part_may_come_twice_and_both_count() -> None:
    some = contributions(7)
    some[1] = replace(some[1], part=some[0].part)
    expected = aggregated(config_of("krum"), some)
    assert expected.examples == sum(range(1, 8))
    assert same(aggregated(config_of("krum"), some[::-1]), expected)


def test_examples_and_age_do_not_change_what_an_update_counts_but_the_loss_is_weighted() -> None:
    config = config_of("trimmed_mean")
    plain = aggregated(config, contributions(5))
    louder = [replace(one, weight=1000 * one.weight, staleness=i) for i, one in enumerate(contributions(5))]
    other = aggregated(config, louder)
    assert other.mean[:PARAMETERS].tobytes() == plain.mean[:PARAMETERS].tobytes()
    assert (plain.examples, other.examples) == (15, 15_000)
    assert plain.loss == pytest.approx((2 * 0.1 + 3 * 0.2 + 4 * 0.3 + 5 * 0.4) / 15)
    assert other.digest != plain.digest


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e39])
def test_a_loss_that_can_not_be_is_left_out(loss: float) -> None:
    some = [replace(one, weight=1, loss=0.5) for one in contributions(5)]
    assert aggregated(config_of("median"), [*some[:4], replace(some[4], loss=loss)]).loss == 0.5
    silent = aggregated(config_of("median"), [replace(one, loss=math.nan) for one in some])
    assert math.isnan(silent.loss)


def test_the_digest_tells_parts_weights_and_bytes_apart() -> None:
    some, others = contributions(4), contributions(4, seed=1)
    variants = [
        some,
        [*some[:3], replace(some[3], part="part-99")],
        [*some[:3], replace(some[3], weight=100)],
        [*some[:3], others[3]],
        some[:3],
    ]
    assert len({aggregated(config_of("median"), one).digest for one in variants}) == len(variants)


def test_buffers_are_left_to_the_updates_that_have_them() -> None:
    updates = normal(7, TOTAL)
    some = [
        replace(one, payload=payload(update, LAYOUT.parameters)) if i > 2 else one
        for i, (one, update) in enumerate(zip(contributions(7), updates, strict=True))
    ]
    result = aggregated(config_of("krum"), some)
    np.testing.assert_allclose(result.mean[:PARAMETERS], references.krum(updates[:, :PARAMETERS], 1))
    np.testing.assert_array_equal(result.mean[PARAMETERS:], np.median(updates[:3, PARAMETERS:], axis=0))


def test_buffers_that_too_few_have_stay_as_they_are() -> None:
    updates = normal(7, TOTAL)
    some = [
        replace(one, payload=payload(update, LAYOUT.parameters)) if i > 1 else one
        for i, (one, update) in enumerate(zip(contributions(7), updates, strict=True))
    ]
    result = aggregated(config_of("krum"), some)  # of two, one may be malicious
    assert result.mean[PARAMETERS:].tolist() == [0.0] * (TOTAL - PARAMETERS)
    assert result.mean[:PARAMETERS].any()


def test_tensors_may_come_in_any_order() -> None:
    some = contributions(5)
    turned = [
        replace(one, payload=payload(update, LAYOUT.entries[::-1]))
        for one, update in zip(some, normal(5, TOTAL), strict=True)
    ]
    assert aggregated(config_of("median"), some).mean.tobytes() == (
        aggregated(config_of("median"), turned).mean.tobytes()
    )


@pytest.mark.parametrize("rule", RULES)
def test_poisoned_buffers_and_parameters_stay_without_effect(rule: str) -> None:
    updates = normal(7, TOTAL)
    updates[5, PARAMETERS:] = 1000  # parameters look honest
    given = [Contribution(f"part-{i}", 1, payload(update), 0.0) for i, update in enumerate(updates)]
    mean = aggregated(config_of(rule), given).mean
    assert np.abs(mean).max() < 5


def test_updates_are_clipped_before_the_rule_sees_them() -> None:
    updates = normal(5, TOTAL)
    norms = np.linalg.norm(updates[:, :PARAMETERS].astype(np.float64), axis=1)
    bound = float(np.sort(norms)[2])
    result = aggregated(config_of("trimmed_mean", clip_norm=bound), contributions(5))
    clipped = updates[:, :PARAMETERS] * np.minimum(1, bound / norms)[:, None]
    np.testing.assert_allclose(
        result.mean[:PARAMETERS], references.trimmed_mean(clipped, 1), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(result.mean[PARAMETERS:], np.median(updates[:, PARAMETERS:], axis=0))


def bad_payloads() -> dict[str, tuple[Payload, type[Exception], str]]:
    (good,) = normal(1, TOTAL)
    cases: dict[str, tuple[Payload, type[Exception], str]] = {
        "a parameter is missing": (payload(good, LAYOUT.entries[1:]), PayloadError, "lacks '0.weight'"),
        "one buffer is missing": (payload(good, LAYOUT.entries[:-1]), PayloadError, "lacks '1.running_var'"),
        "too long": (payload(9 * good), ValueRangeError, r"aggregate.reject_norm"),
    }
    reader = PayloadReader(max_bytes=1000, header_bytes=1000)
    reader.feed(encode_header([("0.bias", "F64", (2,))]) + bytes(16))
    cases["another dtype"] = (reader.finish(), PayloadError, r"'0.bias' as F64\[2\], expected F32\[2\]")
    for place in (0, TOTAL - 1):
        for value in (math.nan, math.inf, -math.inf, 1025.0, -1025.0):
            poisoned: NDArray[np.float32] = good.copy()
            poisoned[place] = value
            cases[f"{value} at {place}"] = (payload(poisoned), ValueRangeError, "finite values within")
    return cases


@pytest.mark.parametrize("case", bad_payloads())
def test_a_refused_update_leaves_no_trace(case: str) -> None:
    bad, kind, message = bad_payloads()[case]
    config = config_of("median", reject_norm=30.0)
    some = contributions(5)
    with closing(open_robust(config, LAYOUT, None)) as aggregate:
        for one in some[:2]:
            aggregate.add(one)
        with pytest.raises(kind, match=message):
            aggregate.add(Contribution("part-77", 5, bad, 100.0))
        for one in some[2:]:
            aggregate.add(one)
        assert same(aggregate.finish(), aggregated(config, some))


@pytest.mark.parametrize(("rule", "needed"), [("median", 3), ("krum", 5), ("bulyan", 7)])
def test_too_few_updates_for_a_rule_are_no_result(rule: str, needed: int) -> None:
    with pytest.raises(TooFewLearnersError, match=f"closed on {needed - 1} updates; .* needs {needed}"):
        aggregated(config_of(rule), contributions(needed - 1))
    assert aggregated(config_of(rule), contributions(needed)).examples == sum(range(1, needed + 1))


def test_a_run_that_asks_for_a_rule_gets_it_and_its_folder(tmp_path: Path) -> None:
    config = config_of("median")
    with closing(open_aggregate(config, LAYOUT, Scale.of(1024.0, 100), tmp_path / "spool")) as aggregate:
        assert isinstance(aggregate, RobustAggregate)
        for one in contributions(3):
            aggregate.add(one)
        np.testing.assert_array_equal(aggregate.finish().mean, np.median(normal(3, TOTAL), axis=0))
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.parametrize("local", [["0.bias"], ["1.weight", "1.bias"], ["1.running_var"], ["1.*"]])
def test_tensors_that_stay_local_are_left_as_they_are_and_the_others_combined(local: list[str]) -> None:
    layout = LAYOUT.keeping(local)
    sent = [
        Contribution(f"part-{i}", 1, payload(update, layout.shared), 0.0)
        for i, update in enumerate(normal(5, TOTAL, 3))
    ]
    with closing(open_robust(config_of("median"), layout, None)) as aggregate:
        for one in sent:
            aggregate.add(one)
        mean = aggregate.finish().mean
    expected = np.median(normal(5, TOTAL, 3).astype(np.float64), axis=0).astype(np.float32)
    assert mean.tobytes() == layout.gathered(expected).tobytes()


def test_the_statistics_of_a_stale_update_are_left_out() -> None:
    updates = normal(5, TOTAL, 4)
    sent = [
        Contribution(f"part-{i}", 1, payload(update), 0.0, staleness=int(i > 2))
        for i, update in enumerate(updates)
    ]
    mean = aggregated(config_of("median", 1), sent).mean
    expected = np.median(updates[:3, PARAMETERS:].astype(np.float64), axis=0).astype(np.float32)
    assert mean[PARAMETERS:].tobytes() == expected.tobytes()
