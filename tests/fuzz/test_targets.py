from __future__ import annotations

import pytest

from tests.fuzz.__main__ import main
from tests.fuzz.suite import SUITE

COUNT = 15_000

#: What must be among the outcomes of each target: inputs that get nowhere prove nothing.
OUTCOMES = {
    "safetensors header": {"taken", "PayloadError", "LimitError"},
    "update payload": {"accepted", "PayloadError", "LimitError", "ValueRangeError"},
    "encoded update": {"taken", "PayloadError", "LimitError"},
    "change of the model": {"taken", "PayloadError", "LimitError"},
    "model payload": {"taken", "PayloadError", "LimitError", "IncompatibleError"},
    "data payload": {"taken", "PayloadError", "LimitError"},
    "checkpoint file": {"loaded", "CheckpointError"},
    "masked run": {"0 crashes", "1 crashes", "2 crashes", "3 crashes"},
    "masking messages": {"0 crashes", "1 crashes", "2 crashes", "3 crashes"},
    "framing": {"one chunk", "message", "DecodeError"},
    "RegisterLearner": {
        "OK",
        "INVALID_ARGUMENT",
        "FAILED_PRECONDITION",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
    },
    "GetModel": {"OK", "INVALID_ARGUMENT", "ABORTED"},
    "GetData": {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "UNAVAILABLE"},
    "AccumulateGradients": {
        "OK",
        "INVALID_ARGUMENT",
        "OUT_OF_RANGE",
        "DATA_LOSS",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "ALREADY_EXISTS",
        "UNAUTHENTICATED",
        "UNAVAILABLE",
        "resumed OK",
        "resumed DATA_LOSS",
    },
    "ExchangeGradients": {
        "OK",
        "redo",
        "INVALID_ARGUMENT",
        "OUT_OF_RANGE",
        "DATA_LOSS",
        "RESOURCE_EXHAUSTED",
        "ABORTED",
        "UNAUTHENTICATED",
        "anchor OK",
        "whole OK",
        "whole ALREADY_EXISTS",
        "two OK",
        "two INVALID_ARGUMENT",
        "abandoned",
        "stalled",
        "not read",
    },
    "Session": {
        "session OK",
        "session abandoned",
        "session INVALID_ARGUMENT",
        "session UNAUTHENTICATED",
        "further message",
    },
    "GetWork": {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED"},
    "GetUpload": {"held", "nothing held", "ABORTED", "INVALID_ARGUMENT", "UNAUTHENTICATED"},
    "Enrol": {"OK", "PERMISSION_DENIED", "INVALID_ARGUMENT"},
    "StartTraining": {"done", "not done", "INVALID_ARGUMENT"},
    "SyncModelState": {"done", "INVALID_ARGUMENT"},
    "StopTraining": {"done", "INVALID_ARGUMENT"},
}


def test_every_target_is_run() -> None:
    assert SUITE.keys() == OUTCOMES.keys()


@pytest.mark.parametrize("name", SUITE)
def test_mutated_inputs_are_taken_rightly_or_refused_by_name(name: str) -> None:
    tally = SUITE[name](COUNT, 1)
    assert tally.inputs == COUNT
    assert not tally.problem
    assert OUTCOMES[name] <= tally.outcomes.keys(), tally


def test_the_command_prints_a_line_for_each_target_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--count", "300", "--seed", "5", "framing", "GetWork"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["framing", "GetWork"]
    assert all(": 300 inputs in " in line for line in lines)
