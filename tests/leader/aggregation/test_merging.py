"""Sums that are made in several places come to the bits of one that is made in one."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from leader.aggregation.aggregate import Aggregate
from leader.aggregation.base import Contribution, Elsewhere, Mergeable, Result
from leader.aggregation.exact_sum import Scale
from leader.aggregation.norms import squared_norm
from leader.aggregation.weighting import ByExamples, Clipped, FedNova, QFedAvg, Weighting
from leader.secagg.masked_sum import MaskedSum
from model.layout import Layout
from protos import leader_pb2
from utils.errors import LimitError, PayloadError
from utils.secagg.update import VALUES, WIDE
from utils.wire.payload import Manifest, Payload, encode_header, parse_header

LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
SCALE = Scale.of(1024.0, 1000)
WEIGHTINGS = [ByExamples(), FedNova(0.9), QFedAvg(2.0, 10.0), Clipped(ByExamples(), 1.0)]
EMPTY = Payload(Manifest((), {}, 0, 0), np.empty(0, np.uint8), 0)


def update(number: int, *, buffers: bool = True) -> Contribution:
    entries = LAYOUT.entries if buffers else LAYOUT.parameters
    manifest = parse_header(encode_header((entry.name, "F32", entry.shape) for entry in entries))
    size = sum(entry.size for entry in entries)
    values = np.random.default_rng(number).normal(size=size).astype(np.float32)
    payload = Payload(manifest, values.view(np.uint8), number)
    return Contribution(f"part-{number}", 1 + number % 7, payload, 0.5, 1 + number % 3, start_loss=number / 4)


def receipt(one: Contribution) -> Contribution:
    """What the leader is told of it."""
    buffers = len(one.payload.manifest.tensors) > len(LAYOUT.parameters)
    told = Elsewhere(one.part.encode(), squared_norm(LAYOUT, one.payload), buffers)
    return replace(one, payload=Payload(EMPTY.manifest, EMPTY.data, one.payload.crc32), elsewhere=told)


def data_of(aggregate: Mergeable) -> tuple[tuple[int, ...], NDArray[np.uint8]]:
    weights, arrays = aggregate.summed()
    return weights, np.concatenate([np.ascontiguousarray(array).view(np.uint8) for array in arrays])


def at_leader(weighting: Weighting, groups: list[list[Contribution]], own: list[Contribution]) -> Result:
    """The result of a leader that adds its `own`, and merges the sums of the groups."""
    leader = Aggregate(LAYOUT, SCALE, weighting)
    for group in groups:
        edge = Aggregate(LAYOUT, SCALE, weighting)
        for one in group:
            edge.add(one)
            leader.count(receipt(one))
        leader.merge(frozenset(one.part for one in group), *data_of(edge))
    for one in own:
        leader.add(one)
    return leader.finish()


@pytest.mark.parametrize("weighting", WEIGHTINGS, ids=lambda one: type(one).__name__)
@given(places=st.lists(st.integers(0, 3), min_size=1, max_size=9), bare=st.sets(st.integers(0, 8)))
def test_wherever_updates_are_added_the_result_has_the_same_bits(
    weighting: Weighting, places: list[int], bare: set[int]
) -> None:
    updates = [update(number, buffers=number not in bare) for number in range(len(places))]
    alone = Aggregate(LAYOUT, SCALE, weighting)
    for one in updates:
        alone.add(one)
    expected = alone.finish()
    groups = [[one for one, at in zip(updates, places, strict=True) if at == place] for place in (1, 2, 3)]
    own = [one for one, at in zip(updates, places, strict=True) if at == 0]
    found = at_leader(weighting, groups, own)
    assert found.mean.tobytes() == expected.mean.tobytes()
    assert (found.digest, found.examples, found.loss) == (expected.digest, expected.examples, expected.loss)


@given(kept=st.sets(st.integers(0, 5)), taken_out=st.sets(st.integers(6, 11)))
def test_what_is_withdrawn_leaves_no_trace(kept: set[int], taken_out: set[int]) -> None:
    updates = [update(number, buffers=number % 2 == 0) for number in (*kept, *taken_out)]
    sums, expected = (Aggregate(LAYOUT, SCALE, FedNova(0.9)) for _ in range(2))
    for one in updates:
        sums.add(one)
    for number in taken_out:
        sums.withdraw(update(number, buffers=number % 2 == 0))
    for number in kept:
        expected.add(update(number, buffers=number % 2 == 0))
    assert data_of(sums)[0] == data_of(expected)[0]
    assert data_of(sums)[1].tobytes() == data_of(expected)[1].tobytes()
    assert sums.parts == expected.parts


def test_a_sum_of_other_weights_is_refused_and_changes_nothing() -> None:
    edge, leader = (Aggregate(LAYOUT, SCALE, ByExamples()) for _ in range(2))
    edge.add(update(1))
    edge.add(update(2))
    leader.count(receipt(update(1)))
    with pytest.raises(PayloadError, match=r"weights \(5, 5\).* come to \(2, 2\)"):
        leader.merge(frozenset({"part-1"}), *data_of(edge))
    edge.withdraw(update(2))
    leader.merge(frozenset({"part-1"}), *data_of(edge))
    assert leader.finish().mean.tobytes() == edge.finish().mean.tobytes()


def test_what_is_forgotten_counts_no_more() -> None:
    leader = Aggregate(LAYOUT, SCALE, ByExamples())
    leader.count(receipt(update(1)))
    leader.add(update(2))
    leader.forget(frozenset({"part-1"}))
    assert leader.parts == {"part-2"}
    assert leader.finish().examples == 3


def test_a_receipt_of_more_weight_than_fits_is_refused() -> None:
    with pytest.raises(LimitError, match="weight 2000 is outside"):
        Aggregate(LAYOUT, SCALE, ByExamples()).count(replace(receipt(update(1)), weight=2000))


def masked(number: int, sums: MaskedSum) -> Contribution:
    rng = np.random.default_rng(number)
    values = rng.integers(0, 2**32, sums.values.size, np.uint32)
    wide = rng.integers(0, 2**63, sums.wide.size, np.uint64)
    manifest = parse_header(encode_header([(VALUES, "I32", values.shape), (WIDE, "I64", wide.shape)]))
    data = np.concatenate([values.view(np.uint8), wide.view(np.uint8)])
    return Contribution(f"part-{number}", 1, Payload(manifest, data, number), math.nan)


def test_masked_sums_merge_and_give_back_as_words() -> None:
    plan = leader_pb2.MaskPlan(bits=32, parties=4)
    alone, edge, leader = (MaskedSum(LAYOUT, plan, SCALE) for _ in range(3))
    for number in range(4):
        alone.add(masked(number, alone))
        edge.add(masked(number, alone)) if number < 3 else leader.add(masked(number, alone))
    edge.add(masked(9, alone))
    edge.withdraw(masked(9, alone))
    for number in range(3):
        leader.count(
            Contribution(f"part-{number}", 1, EMPTY, math.nan, elsewhere=Elsewhere(b"", 0.0, buffers=False))
        )
    leader.merge(frozenset({"part-0", "part-1", "part-2"}), *data_of(edge))
    assert leader.values.tobytes() == alone.values.tobytes()
    assert leader.wide.tobytes() == alone.wide.tobytes()
    assert sorted(leader.parts) == sorted(alone.parts)
    with pytest.raises(PayloadError, match=r"weights \(3,\); it is over 1 updates"):
        leader.merge(frozenset({"part-3"}), *data_of(edge))
