from __future__ import annotations

import math
from typing import Any

import pytest
from torch import nn

from leader.aggregation.exact_sum import Scale
from leader.distributed.messages import (
    layout_message,
    layout_of,
    members_digest,
    revocations_of,
    revoked_message,
    scale_message,
    scale_of,
)
from leader.trust.identities.revocations import Revocations
from model.layout import Layout
from protos import edge_pb2
from utils.errors import PayloadError

LAYOUT = Layout.of(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))


def entry(name: str, *shape: int) -> edge_pb2.TensorEntry:
    return edge_pb2.TensorEntry(name=name, shape=shape)


@pytest.mark.parametrize("local", [[], ["1.*"]])
def test_a_layout_comes_back_as_it_was(local: list[str]) -> None:
    layout = LAYOUT.keeping(local)
    assert layout_of(layout_message(layout)) == layout


@pytest.mark.parametrize(
    "message",
    [
        edge_pb2.ModelLayout(),
        edge_pb2.ModelLayout(buffers=[entry("a", 1)]),
        edge_pb2.ModelLayout(parameters=[entry("a", 1), entry("a", 2)]),
        edge_pb2.ModelLayout(parameters=[entry("a", 1)], buffers=[entry("a", 1)]),
        edge_pb2.ModelLayout(parameters=[entry("a", 1)], local=["b"]),
        edge_pb2.ModelLayout(parameters=[entry("a", 2**63, 2**63)]),
        edge_pb2.ModelLayout(parameters=[entry("a", 2**39), entry("b", 2**39), entry("c", 1)]),
    ],
)
def test_a_layout_that_can_be_no_models_is_refused(message: edge_pb2.ModelLayout) -> None:
    with pytest.raises(PayloadError):
        layout_of(message)


def test_a_scale_comes_back_as_it_was() -> None:
    for scale in (Scale.of(1024.0, 1000), Scale.of(0.5, 1, 17)):
        assert scale_of(scale_message(scale)) == scale


@pytest.mark.parametrize(
    "change",
    [
        {"fraction_bits": 0},
        {"fraction_bits": 63},
        {"max_abs": math.nan},
        {"max_abs": math.inf},
        {"max_weight": 0},
    ],
)
def test_a_scale_under_which_nothing_can_be_added_is_refused(change: dict[str, float]) -> None:
    message = scale_message(Scale.of(1024.0, 1000))
    for name, value in change.items():
        setattr(message, name, value)
    with pytest.raises(PayloadError):
        scale_of(message)


def test_members_are_told_apart_whatever_their_order() -> None:
    a, b, c = (bytes([n]) * 16 for n in range(3))
    assert members_digest([a, b]) == members_digest([b, a])
    assert len({members_digest(uids) for uids in ([], [a], [a, b], [a, c], [a, b, c])}) == 5


def test_revocations_come_back_as_they_were_told() -> None:
    told = Revocations(frozenset({"ann", "b-2"}), frozenset({5, (1 << 159) + 1}))
    assert revocations_of(edge_pb2.Revoked.FromString(revoked_message(told).SerializeToString())) == told


@pytest.mark.parametrize(
    "said",
    [{"names": ["a/b"]}, {"names": ["ann"] * 70_000}, {"serials": [bytes(20)] * 70_000}, {"serials": [b"x"]}],
)
def test_revocations_of_nobody_or_of_too_many_are_refused(said: dict[str, Any]) -> None:
    with pytest.raises(PayloadError, match="more than 65536"):
        revocations_of(edge_pb2.Revoked(**said))
