"""A learner in JAX: the full contract over a session, its own data, and nothing of Flockstep but protos/.

The model is a perceptron with one hidden layer for handwritten digits; the leader knows only its tensors,
from a safetensors file. Each learner holds back a tenth of its rows, and scores the model on them.

    python -m examples.make_data digits data/digits
    python -m examples.jax_learner --write-weights data/mlp.safetensors
    python -m leader --data none --rounds 20 --set data.holder=learner \
      --set model.name= --set model.weights=data/mlp.safetensors --set train.batch_size=32 --set train.lr=0.3 \
      --set evaluation.holdout=0.1 --set evaluation.federated_every=1
    python -m examples.jax_learner --leader 127.0.0.1:50051 --data data/digits/part-1 --name a
    python -m examples.jax_learner --leader 127.0.0.1:50051 --data data/digits/part-2 --name b

Local training is plain SGD at the order's peak learning rate; of the order's other settings it reads the
number of steps, the batch size and the seed. A learner that loses the leader ends; started again under its
name it goes on.
"""

from __future__ import annotations

import argparse
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save, save_file

from protos import leader_pb2, leader_pb2_grpc

CLASSES, PIXELS, HIDDEN = 10, 64, 32
Weights = dict[str, jax.Array]
Arrays = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Examples:
    """Labelled rows."""

    pixels: NDArray[np.float32]  # (N, PIXELS), 0..1
    labels: NDArray[np.int64]  # (N,)

    @classmethod
    def read(cls, path: Path) -> Examples:
        """From a CSV file without a heading: the pixels (0..16), then the label."""
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        return cls((rows[:, :-1] / 16).astype(np.float32), rows[:, -1].astype(np.int64))

    def part(self, rows: slice) -> Examples:
        """Those rows of them."""
        return Examples(self.pixels[rows], self.labels[rows])


def initial_weights() -> Arrays:
    """Seeded weights: normal, of variance 2 / inputs (He et al. 2015)."""
    random = np.random.default_rng(0)

    def layer(inputs: int, outputs: int) -> NDArray[np.float32]:
        drawn = random.standard_normal((inputs, outputs), np.float32)
        return drawn * np.float32(np.sqrt(2 / inputs))

    zeros = np.zeros(HIDDEN + CLASSES, np.float32)
    return {
        "hidden.weight": layer(PIXELS, HIDDEN),
        "hidden.bias": zeros[:HIDDEN],
        "out.weight": layer(HIDDEN, CLASSES),
        "out.bias": zeros[HIDDEN:],
    }


def logits(weights: Weights, pixels: jax.Array) -> jax.Array:
    """(B, CLASSES)."""
    hidden = jax.nn.relu(pixels @ weights["hidden.weight"] + weights["hidden.bias"])
    return hidden @ weights["out.weight"] + weights["out.bias"]


def cross_entropy(weights: Weights, pixels: jax.Array, labels: jax.Array) -> jax.Array:
    """Mean over the batch."""
    log_odds = jax.nn.log_softmax(logits(weights, pixels))
    return -jnp.take_along_axis(log_odds, labels[:, None], axis=1).mean()


@jax.jit
def sgd_step(weights: Weights, pixels: jax.Array, labels: jax.Array, lr: float) -> tuple[Weights, jax.Array]:
    """(weights after one step, loss before it)."""
    loss, gradient = jax.value_and_grad(cross_entropy)(weights, pixels, labels)
    return jax.tree.map(lambda weight, slope: weight - lr * slope, weights, gradient), loss


def train(order: leader_pb2.WorkOrder, base: Arrays, examples: Examples) -> tuple[Arrays, float]:
    """(change of each tensor, mean training loss) after the order's local steps from `base`."""
    # By seed and first batch, so that an order that comes again is answered by the same update.
    random = np.random.default_rng([order.seed, order.first_batch])
    weights, losses = jax.tree.map(jnp.asarray, base), []
    size = min(order.batch_size, len(examples.labels))
    for _ in range(order.local_steps):
        batch = random.choice(len(examples.labels), size, replace=False)
        weights, loss = sgd_step(weights, examples.pixels[batch], examples.labels[batch], order.schedule.lr)
        losses.append(float(loss))
    return {name: np.asarray(weights[name]) - base[name] for name in base}, float(np.mean(losses))


@dataclass(frozen=True)
class Learner:
    """One registration with a leader."""

    leader: leader_pb2_grpc.LeaderServiceStub
    ack: leader_pb2.AckWithMetadata
    trained: Examples
    held_out: Examples

    def follow(self) -> None:
        """Do what the leader says over the session until it says stop."""
        left = threading.Event()
        try:
            for message in self.leader.Session(self.messages(left)):
                match message.WhichOneof("kind"):
                    case "work":
                        self.answer(message.work)
                    case "stop":
                        print(f"the leader says stop: {message.stop.reason}")
                        return
        finally:
            left.set()

    def messages(self, left: threading.Event) -> Iterator[leader_pb2.LearnerMessage]:
        """Hello, then signs of life; gRPC takes them in a thread of its own, also during training."""
        yield leader_pb2.LearnerMessage(hello=leader_pb2.Hello(token=self.ack.token))
        while not left.wait(self.ack.run.heartbeat_s):
            yield leader_pb2.LearnerMessage(heartbeat=leader_pb2.Heartbeat())

    def answer(self, order: leader_pb2.WorkOrder) -> None:
        """Train as ordered and send the update."""
        request = leader_pb2.Empty(token=self.ack.token, version=order.version)
        base = load(b"".join(message.chunk for message in self.leader.GetModel(request)))
        change, loss = train(order, base, self.trained)
        content = save(change)
        header = leader_pb2.UpdateHeader(
            token=self.ack.token,
            work_id=order.work_id,
            examples=len(self.trained.labels),
            total_bytes=len(content),
            crc32=zlib.crc32(content),
            loss=loss,
            metrics=self.scores(base) if order.evaluate else (),
        )
        self.leader.AccumulateGradients(self.upload(header, content))
        print(f"round {order.round}: loss {loss:.3f}")

    def scores(self, base: Arrays) -> list[leader_pb2.Metric]:
        """How good the leader's model is on the rows that are not trained on."""
        guessed = logits(jax.tree.map(jnp.asarray, base), jnp.asarray(self.held_out.pixels)).argmax(1)
        right = np.asarray(guessed) == self.held_out.labels
        return [leader_pb2.Metric(name="accuracy", value=right.mean(), examples=len(right))]

    def upload(self, header: leader_pb2.UpdateHeader, content: bytes) -> Iterator[leader_pb2.GradientData]:
        """The header, then the safetensors file in chunks."""
        yield leader_pb2.GradientData(header=header)
        size = self.ack.run.chunk_bytes
        for start in range(0, len(content), size):
            yield leader_pb2.GradientData(chunk=content[start : start + size])


def learn(address: str, name: str, examples: Examples) -> None:
    """Register and work until the leader says stop; raises grpc.RpcError when it refuses or goes away."""
    with grpc.insecure_channel(address) as channel:
        leader = leader_pb2_grpc.LeaderServiceStub(channel)
        info = leader_pb2.LearnerInfo(
            protocol=1,
            name=name,
            device=f"JAX on {jax.default_backend()}",
            control=leader_pb2.CONTROL_SESSION,
            own_data=leader_pb2.OwnData(examples=len(examples.labels)),
        )
        ack = leader.RegisterLearner(info, wait_for_ready=True)
        kept = int(len(examples.labels) * ack.run.holdout)
        Learner(leader, ack, examples.part(np.s_[kept:]), examples.part(np.s_[:kept])).follow()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Take part in a run with JAX.")
    parser.add_argument("--write-weights", type=Path, metavar="FILE", help="write weights to start from")
    parser.add_argument("--leader", metavar="HOST:PORT")
    parser.add_argument("--data", type=Path, metavar="DIR", help="folder with train.csv")
    parser.add_argument("--name", default="")
    options = parser.parse_args()
    if options.write_weights:
        save_file(initial_weights(), options.write_weights)
    else:
        learn(options.leader, options.name, Examples.read(options.data / "train.csv"))


if __name__ == "__main__":
    main()
