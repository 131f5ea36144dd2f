"""A client made from exactly the published contract takes part, without a line of this project's code.

In a secure run it needs one changed line, and other TLS stacks than gRPC's get through as well.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.integration.harness import TIMEOUT_S, Cluster, Settings, weights
from tests.tools.needs import need_commands
from tests.tools.ports import closed_address

CLIENT = Path(__file__).with_name("plain_client.py")
LR = 0.5
#: All that a client changes to take part in a secure run, with files that `python -m leader.trust issue` wrote.
PLAIN_LINE = "grpc.insecure_channel(address)"
SECURE_LINE = (
    "grpc.secure_channel(address, grpc.ssl_channel_credentials("
    "*(Path('me', f'{name}.pem').read_bytes() for name in ('ca', 'key', 'cert'))), "
    "[('grpc.ssl_target_name_override', 'leader.flockstep.internal')])"
)

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


@pytest.mark.parametrize(
    ("call", "norm", "way"),
    [
        ("stream", "batch", "plain"),
        ("unary", "group", "plain"),
        ("stream", "group", "files"),
        ("unary", "batch", "trust.plain_listen"),
    ],
)
def test_its_gradient_moves_the_weights_by_exactly_one_optimizer_step(
    cluster: Cluster, few: Settings, tmp_path: Path, call: str, norm: str, way: str
) -> None:
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    one_message = CONTRACT.replace(
        "AccumulateGradients(stream GradientData)", "AccumulateGradients(GradientData)"
    )
    assert one_message != CONTRACT
    generate(folder, one_message if call == "unary" else CONTRACT)
    text = CLIENT.read_text(encoding="utf-8")
    assert text.count(PLAIN_LINE) == 1
    (folder / CLIENT.name).write_text(text.replace(PLAIN_LINE, SECURE_LINE) if way == "files" else text)
    plain = {way: closed_address()} if way == "trust.plain_listen" else {}

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
            **plain,
        },
        secure=way != "plain",
    )
    address = plain.get(way, leader.address)
    if way == "files":
        cluster.operate("issue", "clinic", "--out", str(folder / "me"))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    client = subprocess.run(
        [sys.executable, CLIENT.name, address, call],
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
    [joined] = leader.events("LearnerJoined")
    assert (joined["name"] == "clinic") == (way == "files")

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


def test_curl_calls_a_secure_leader_with_issued_files(
    cluster: Cluster, tiny: Settings, tmp_path: Path
) -> None:
    """Another TLS and another HTTP/2 than gRPC's, which no code of this project touches."""
    need_commands("curl", install="apt-get install curl")
    leader = cluster.leader(tiny, secure=True)
    me = tmp_path / "me"
    cluster.operate("issue", "watch", "--role", "observer", "--out", str(me))
    host, port = "leader.flockstep.internal", leader.address.rpartition(":")[2]
    url = f"https://{host}:{port}/grpc.health.v1.Health/Check"
    known = [
        "curl",
        "-sS",
        "--http2",
        "--tlsv1.3",
        "--resolve",
        f"{host}:{port}:127.0.0.1",
        "--cacert",
        "ca.pem",
    ]
    said = [
        "-H",
        "content-type: application/grpc",
        "-H",
        "te: trailers",
        "--data-binary",
        "@-",
        "-D",
        "-",
        url,
    ]

    def call(*proof: str) -> bytes:
        empty = bytes(5)  # a message of no bytes, not compressed
        command = [*known, *proof, *said]
        done = subprocess.run(
            command, cwd=me, input=empty, capture_output=True, timeout=TIMEOUT_S, check=False
        )
        return done.stdout

    answer = call("--cert", "cert.pem", "--key", "key.pem")
    assert b"\0\0\0\0\2\x08\x01" in answer  # SERVING
    assert b"grpc-status: 0" in answer
    assert b"grpc-status" not in call()
