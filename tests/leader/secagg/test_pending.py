from __future__ import annotations

import base64
import json
from contextlib import nullcontext
from pathlib import Path

import pytest

from leader.secagg.pending import PendingFile
from protos import leader_pb2
from utils.errors import CheckpointError
from utils.secagg.update import VALUES, WIDE
from utils.wire.payload import encode_header

SAID = {
    "round": 3,
    "parts": ["own-a"],
    "session": "ab",
    "order": "",
    "plan": "",
    "roster": "",
    "survivors": "",
}


@pytest.mark.parametrize(
    "said",
    [
        json.dumps([SAID]),
        json.dumps({**SAID, "plan": "////"}),
        json.dumps({**SAID, "plan": 5}),
        json.dumps({"round": 3, "attempt": -1}),
        json.dumps({"round": 3, "attempt": float("inf")}),
        json.dumps({"round": 3, "attempt": "1"}),
        "[" * 100_000,
    ],
)
def test_a_pending_sum_that_no_leader_has_written_is_told(tmp_path: Path, said: str) -> None:
    path = tmp_path / "pending"
    tensors = [(name, "I64", (0,)) for name in ("values", "wide")]
    path.write_bytes(encode_header(tensors, {"format": "flockstep-pending-1", "state": said}))
    with pytest.raises(
        CheckpointError, match=r"is damaged: .*; learners that have revealed .*start a new run"
    ):
        PendingFile(path).read(3)


def test_a_sum_of_a_group_that_counts_for_others_than_are_in_it_is_told(tmp_path: Path) -> None:
    plan = leader_pb2.MaskPlan(bits=64, parties=4, threshold=3, least=3, range=8)
    told = {**SAID, "plan": base64.b64encode(plan.SerializeToString()).decode()}
    tensors = [(name, "I64", (0,)) for name in (VALUES, WIDE)]
    for part, fits in (("own-a", True), ("own-b", False)):
        state = json.dumps({**told, "place": {"buffer": 3, "turns": {part: 0}}})
        path = tmp_path / part
        path.write_bytes(encode_header(tensors, {"format": "flockstep-pending-1", "state": state}))
        with nullcontext() if fits else pytest.raises(CheckpointError, match=r"turns of .'own-b'.*'own-a'"):
            assert PendingFile(path).read(3)


def test_an_attempt_that_failed_is_known_after_a_restart(tmp_path: Path) -> None:
    PendingFile(tmp_path / "pending").failed(3)
    assert (tmp_path / "pending").stat().st_mode & 0o077 == 0  # a sum is its leader's alone
    again = PendingFile(tmp_path / "pending")
    assert (again.read(3), again.attempt(3), again.attempt(4)) == (None, 1, 0)
