"""What an edge takes from its parent, and what it does not."""

from __future__ import annotations

from typing import Any

import pytest

from leader.distributed.messages import layout_message, scale_message
from leader.edge.joined import Joined
from protos import edge_pb2, leader_pb2
from tests.clusters import TINY
from tests.leader.edge.parents import KEY, LAYOUT, SCALE, config_of
from utils.errors import FlockstepError, IncompatibleError, PayloadError


def welcome(**change: Any) -> edge_pb2.Welcome:
    given: dict[str, Any] = {
        "run_id": "run",
        "token": b"t" * 16,
        "key": KEY,
        "config": config_of(TINY).model_dump_json(by_alias=True, exclude={"services", "trust", "web"}),
        "layout": layout_message(LAYOUT),
        "heartbeat_s": 5.0,
    }
    return edge_pb2.Welcome(**{**given, **change})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"key": b""}, PayloadError, "without a token, a key"),
        ({"token": b""}, PayloadError, "without a token"),
        ({"heartbeat_s": 0.0}, PayloadError, "or a heartbeat"),
        ({"heartbeat_s": float("nan")}, PayloadError, "or a heartbeat"),
        ({"config": '{"codex": 1}'}, IncompatibleError, "1 keys that this release does not know"),
        ({"config": "no JSON"}, IncompatibleError, "install the same release on both"),
        ({"layout": edge_pb2.ModelLayout()}, PayloadError, "has no parameters"),
    ],
)
def test_a_welcome_that_cant_be_one_is_refused(
    change: dict[str, Any], error: type[FlockstepError], words: str
) -> None:
    Joined(welcome())
    with pytest.raises(error, match=words):
        Joined(welcome(**change))


def test_a_sum_that_cant_be_made_is_refused() -> None:
    plain = Joined(welcome())
    with pytest.raises(PayloadError, match="under which nothing could be added"):
        plain.begin(edge_pb2.Open(round=1))
    masked = config_of({**TINY, "secagg.mode": "masked", "learners": 4})
    joined = Joined(
        welcome(config=masked.model_dump_json(by_alias=True, exclude={"services", "trust", "web"}))
    )
    opened = edge_pb2.Open(round=1, scale=scale_message(SCALE), masking=leader_pb2.MaskPlan(bits=7))
    with pytest.raises(PayloadError, match="masks of 7 bits"):
        joined.begin(opened)
