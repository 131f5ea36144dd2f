"""A learner in under 100 lines: gRPC, safetensors, and the arithmetic of one layer in NumPy.

It speaks the plain contract, four calls, and needs nothing of Flockstep but the stubs in protos/. The model
is softmax regression on 8 x 8 grey pixels; the leader knows only its tensors, from a safetensors file.

    python -m examples.make_data photos data/photos
    python -m examples.minimal_learner --write-weights data/softmax.safetensors
    python -m leader --data data/photos --learners 1 --rounds 60 --exchange gradient \
      --set model.name= --set model.weights=data/softmax.safetensors --set train.local_steps=1 \
      --set train.lr=1 --set train.weight_decay=0
    python -m examples.minimal_learner 127.0.0.1:50051
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save, save_file

from protos import leader_pb2, leader_pb2_grpc

CLASSES, PIXELS, CHUNK_BYTES = 10, 64, 1 << 20
Floats = NDArray[np.float32]
Weights = dict[str, Floats]  # "weight" (CLASSES, PIXELS), "bias" (CLASSES,)


def inputs(images: NDArray[np.uint8]) -> Floats:
    """(N, PIXELS) in 0..1: the mean of each 4 x 4 square of images (N, 3, 32, 32), over all colours."""
    squares: Floats = images.reshape(-1, 3, 8, 4, 8, 4).mean((1, 3, 5), np.float32)
    return squares.reshape(-1, PIXELS) / np.float32(255)


def gradient(weights: Weights, x: Floats, labels: NDArray[np.int64]) -> tuple[Weights, float, float]:
    """(mean gradient over all examples, mean cross-entropy, accuracy)."""
    logits = x @ weights["weight"].T + weights["bias"]
    odds = np.exp(logits - logits.max(1, keepdims=True))
    error = odds / odds.sum(1, keepdims=True)  # softmax; less the label, the gradient of the logits
    right = error[np.arange(len(labels)), labels]
    accuracy = (logits.argmax(1) == labels).mean()
    error[np.arange(len(labels)), labels] -= 1
    mean = {"weight": error.T @ x / len(x), "bias": error.mean(0)}
    return mean, float(-np.log(right).mean()), float(accuracy)


def joined(stream: Iterator[leader_pb2.ModelChunk | leader_pb2.DataChunk]) -> dict[str, NDArray[Any]]:
    """The tensors of a stream: its chunks, concatenated, are one safetensors file."""
    return load(b"".join(message.chunk for message in stream))


def chunks(content: bytes) -> Iterator[leader_pb2.GradientData]:
    """A safetensors file as a stream of messages."""
    for start in range(0, len(content), CHUNK_BYTES):
        yield leader_pb2.GradientData(chunk=content[start : start + CHUNK_BYTES])


def is_over(error: grpc.RpcError) -> bool:
    """Whether this refusal means the end; False: ask again. Raises it if the fault is ours."""
    code, said = error.code(), error.details() or ""
    if code not in (grpc.StatusCode.ABORTED, grpc.StatusCode.UNAVAILABLE):
        raise error
    return said.endswith("the run is over") or not said.startswith("leader: ")  # the latter: it has gone


def learn(address: str) -> None:
    """Take part until the run is over."""
    with grpc.insecure_channel(address) as channel:
        leader = leader_pb2_grpc.LeaderServiceStub(channel)
        # Any text that is this learner's own; it tells its calls from those of others.
        leader.RegisterLearner(leader_pb2.LearnerInfo(network_addr="minimal"), wait_for_ready=True)
        data = joined(leader.GetData(leader_pb2.LearnerDataRequest(network_addr="minimal")))
        x, labels = inputs(data["images"]), data["labels"]
        while True:
            try:
                weights = joined(leader.GetModel(leader_pb2.Empty()))
                mean, loss, accuracy = gradient(weights, x, labels)
                print(f"{len(labels)} examples: loss {loss:.3f}, accuracy {accuracy:.3f}")
                leader.AccumulateGradients(chunks(save(mean)))
            except grpc.RpcError as error:
                if is_over(error):
                    return


if __name__ == "__main__":
    if sys.argv[1] == "--write-weights":
        start = {"weight": np.zeros((CLASSES, PIXELS), np.float32), "bias": np.zeros(CLASSES, np.float32)}
        save_file(start, sys.argv[2])
    else:
        learn(sys.argv[1])
