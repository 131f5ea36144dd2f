"""A learner that knows nothing but the plain contract; run in a folder with the stubs made from it.

    python plain_client.py ADDRESS unary|stream

Registers, fetches model and data, and sends a made-up gradient. What it received and sent is left in
model.safetensors, data.safetensors and update.safetensors.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import leader_pb2  # type: ignore[import-not-found]
import leader_pb2_grpc  # type: ignore[import-not-found]
import numpy as np
from safetensors.numpy import load, save

CHUNK_BYTES = 100_000


def gradient(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Multiples of 1/1024, different in each element: no sum or product with them is rounded."""
    count = int(np.prod(shape))
    return (((np.arange(count) * 7 + len(name)) % 1021 - 510) / 1024).astype(np.float32).reshape(shape)


def pieces(content: bytes) -> Iterator[leader_pb2.GradientData]:
    """The file as a stream of messages."""
    for start in range(0, len(content), CHUNK_BYTES):
        yield leader_pb2.GradientData(chunk=content[start : start + CHUNK_BYTES])


def main(address: str, call: str) -> None:
    """Take part in one exchange."""
    with grpc.insecure_channel(address) as channel:
        leader = leader_pb2_grpc.LeaderServiceStub(channel)
        ack = leader.RegisterLearner(leader_pb2.LearnerInfo(network_addr="a-plain-client"))
        assert ack.success, ack.message
        assert ack.learner_id == 1
        assert ack.max_learners > 0

        request = leader_pb2.LearnerDataRequest(network_addr="a-plain-client")
        Path("data.safetensors").write_bytes(b"".join(piece.chunk for piece in leader.GetData(request)))
        model = b"".join(piece.chunk for piece in leader.GetModel(leader_pb2.Empty()))
        Path("model.safetensors").write_bytes(model)

        update = save({name: gradient(name, tensor.shape) for name, tensor in load(model).items()})
        Path("update.safetensors").write_bytes(update)
        if call == "unary":
            counted = leader.AccumulateGradients(leader_pb2.GradientData(chunk=update))
        else:
            counted = leader.AccumulateGradients(pieces(update))
        assert counted.success, counted.message


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
