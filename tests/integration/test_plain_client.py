"""A client made from exactly the published contract takes part, without a line of this project's code."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.integration.harness import TIMEOUT_S, Cluster, Settings, weights

CLIENT = Path(__file__).with_name("plain_client.py")
LR = 0.5

#: As the contract was published; nothing here may ever change.
CONTRACT = """\
    package leader;
    service LeaderService {
      rpc RegisterLearner(LearnerInfo) returns (AckWithMetadata);
      rpc GetModel(Empty) returns (stream ModelChunk);
      rpc GetData(LearnerDataRequest) returns (stream DataChunk);
      rpc AccumulateGradients(stream GradientData) returns (Ack);
    }
    message LearnerInfo        { string network_addr = 1; }
    message LearnerDataRequest { string network_addr = 1; }
    message AckWithMetadata    { bool success = 1; string message = 2; int32 learner_id = 3; int32 max_learners = 4; }
    message Ack                { bool success = 1; string message = 2; }
    message Empty              {}
    message ModelChunk         { bytes chunk = 1; }
    message DataChunk          { bytes chunk = 1; }
    message GradientData       { bytes chunk = 1; }

    package learner;
    service LearnerService {
      rpc StartTraining(Empty) returns (Ack);
      rpc SyncModelState(ModelState) returns (Ack);
    }
    message ModelState { bytes chunk = 1; }
    message Empty {}   message Ack { bool success = 1; string message = 2; }
"""


def generate(folder: Path, contract: str) -> None:
    """The contract's two files and their stubs, in `folder`."""
    leader, learner = re.split(r"(?=^package learner;)", textwrap.dedent(contract), flags=re.MULTILINE)
    for name, text in (("leader", leader), ("learner", learner)):
        (folder / f"{name}.proto").write_text(f'syntax = "proto3";\n{text}')
    options = ["-I.", "--python_out=.", "--grpc_python_out=."]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", *options, "leader.proto", "learner.proto"],
        cwd=folder,
        check=True,
        timeout=TIMEOUT_S,
    )


@pytest.mark.parametrize(("call", "norm"), [("stream", "batch"), ("unary", "group")])
def test_its_gradient_moves_the_weights_by_exactly_one_optimizer_step(
    cluster: Cluster, few: Settings, tmp_path: Path, call: str, norm: str
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    one_message = CONTRACT.replace(
        "AccumulateGradients(stream GradientData)", "AccumulateGradients(GradientData)"
    )
    assert one_message != CONTRACT
    generate(folder, one_message if call == "unary" else CONTRACT)
    shutil.copy(CLIENT, folder)

    leader = cluster.leader(
        {
            **few,
            "learners": 1,
            "exchange": "gradient",
            "rounds": 1,
            "model.name": "resnet20",
            "model.norm": norm,
            "train.local_steps": 1,
            "train.schedule": "constant",
            "train.lr": LR,
            "train.momentum": 0,
            "train.nesterov": "false",
            "train.weight_decay": 0,
        }
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    client = subprocess.run(
        [sys.executable, CLIENT.name, leader.address, call],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert client.returncode == 0, client.stderr + leader.output
    leader.succeed()
    [committed] = leader.events("RoundCommitted")
    assert (committed["learners"], committed["examples"]) == (1, few["data.train_examples"])

    data = load_file(folder / "data.safetensors")
    assert data["images"].shape == (few["data.train_examples"], 3, 32, 32)
    assert data["labels"].dtype == np.int64
    before, after = load_file(folder / "model.safetensors"), weights(leader.run_dir)
    update = load_file(folder / "update.safetensors")
    assert before.keys() == after.keys() == update.keys()
    for name, tensor in before.items():
        is_buffer = "running" in name  # for these the change is sent, not a gradient
        expected = tensor + update[name] if is_buffer else tensor - np.float32(LR) * update[name]
        np.testing.assert_array_equal(after[name], expected, err_msg=name)
