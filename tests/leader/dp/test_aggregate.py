from __future__ import annotations

import math
from random import Random

import numpy as np
import pytest

from leader.aggregation.base import Contribution
from leader.dp.aggregate import PrivateAggregate, Sums
from leader.dp.noise import Mechanism
from leader.state import PrivacyState
from model.layout import Entry, Layout
from utils.errors import PayloadError, ValueRangeError
from utils.vector import Vector
from utils.wire.payload import Payload, encode_header, parse_header

LAYOUT = Layout((Entry("a", (2, 3), 0, 6), Entry("b", (4,), 6, 4)), ())
MECHANISM = Mechanism.of(1.0, 10)
AFTER = PrivacyState(b"", 1.0)


def payload(values: Vector, names: str = "ab") -> Payload:
    entries = {entry.name: entry for entry in LAYOUT.parameters}
    tensors = [entries[name] for name in names]
    manifest = parse_header(encode_header((entry.name, "F32", entry.shape) for entry in tensors))
    data = np.concatenate([values[entry.start : entry.start + entry.size] for entry in tensors])
    return Payload(manifest, data.astype(np.float32).view(np.uint8), 7)


def update(part: str, values: Vector, names: str = "ab") -> Contribution:
    return Contribution(part, 5, payload(values, names), loss=0.5)


def open_sum(mechanism: Mechanism = MECHANISM, clip: float = 2.0) -> tuple[PrivateAggregate, list[object]]:
    told: list[object] = []

    def release(sums: Sums, parts: list[str], digest: str) -> PrivacyState:
        told[:] = [sums.copy(), parts, digest]
        return AFTER

    return PrivateAggregate(LAYOUT, mechanism, clip, release), told


VALUES = [np.random.default_rng(seed).normal(size=10).astype(np.float32) for seed in range(4)]


def test_the_mean_is_that_of_clipped_updates_each_counting_once() -> None:
    aggregate, _ = open_sum()
    for number, values in enumerate(VALUES):
        aggregate.add(update(f"p{number}", values * 10**number))
    result = aggregate.finish()
    norms = [float(np.linalg.norm(values * 10**number)) for number, values in enumerate(VALUES)]
    clipped = [v * 10**i * min(1, 2.0 / norm) for (i, v), norm in zip(enumerate(VALUES), norms, strict=True)]
    assert np.abs(result.mean - np.mean(clipped, axis=0)).max() < 2.0 / MECHANISM.value_reach
    assert result.examples == 20
    assert math.isnan(result.loss)  # it would be a release of its own
    assert result.privacy is AFTER


def test_no_order_of_arrival_and_of_tensors_changes_a_bit() -> None:
    first, told = open_sum()
    for number, values in enumerate(VALUES):
        first.add(update(f"p{number}", values))
    expected, summed = first.finish(), list(told)
    for seed in range(5):
        again, told = open_sum()
        order = list(enumerate(VALUES))
        Random(seed).shuffle(order)
        for number, values in order:
            again.add(update(f"p{number}", values, "ba" if number % 2 else "ab"))
        result = again.finish()
        assert result.mean.tobytes() == expected.mean.tobytes()
        assert (result.digest, told[1:]) == (expected.digest, summed[1:])


@pytest.mark.parametrize("change", ["values", "part", "clip"])
def test_another_sum_or_plan_has_another_digest(change: str) -> None:
    digests = []
    for changed in (False, True):
        clip = 3.0 if changed and change == "clip" else 2.0
        aggregate, told = open_sum(clip=clip)
        values = VALUES[1] if changed and change == "values" else VALUES[0]
        aggregate.add(update("q" if changed and change == "part" else "p", values))
        aggregate.finish()
        digests.append(told[2])
    assert digests[0] != digests[1]


def test_what_is_told_of_a_sum_is_not_a_hash_of_its_updates_but_of_the_noisy_sum() -> None:
    digests = []
    for noise in (0, 1):
        aggregate, _ = open_sum()
        aggregate.add(update("p", VALUES[0]))

        def release(sums: Sums, parts: list[str], digest: str, noise: int = noise) -> PrivacyState:
            sums += noise
            return AFTER

        aggregate._release = release
        digests.append(aggregate.finish().digest)
    assert digests[0] != digests[1]


def test_bits_of_who_was_clipped_are_summed_beside_the_values() -> None:
    mechanism = Mechanism.of(1.0, 10, bit_sigma=1.6)
    aggregate, told = open_sum(mechanism, clip=2.0)
    for number, length in enumerate((0.1, 1.9, 2.1, 50.0, 60.0)):
        values = VALUES[0] / np.linalg.norm(VALUES[0]) * length
        aggregate.add(update(f"p{number}", values.astype(np.float32)))
    aggregate.finish()
    (sums, *_) = told
    assert isinstance(sums, np.ndarray)
    assert sums.size == 11
    assert sums[-1] == (2 - 3) * mechanism.bit // 2


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_an_update_that_is_refused_leaves_no_trace(value: float) -> None:
    aggregate, told = open_sum()
    aggregate.add(update("p", VALUES[0]))
    broken = VALUES[1].copy()
    broken[3] = value
    with pytest.raises(ValueRangeError, match="not finite"):
        aggregate.add(update("q", broken))
    with pytest.raises(PayloadError, match="lacks 'b'"):
        aggregate.add(update("q", VALUES[1], "a"))
    aggregate.finish()
    alone, expected = open_sum()
    alone.add(update("p", VALUES[0]))
    alone.finish()
    assert told[1:] == expected[1:]
