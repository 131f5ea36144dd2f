from __future__ import annotations

import json
from pathlib import Path

import pytest

from leader.secagg.pending import PendingFile
from utils.errors import CheckpointError
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


def test_an_attempt_that_failed_is_known_after_a_restart(tmp_path: Path) -> None:
    PendingFile(tmp_path / "pending").failed(3)
    again = PendingFile(tmp_path / "pending")
    assert (again.read(3), again.attempt(3), again.attempt(4)) == (None, 1, 0)
