"""The benchmark `simulation` in Flower's Ray simulation: run it in a venv with flwr[simulation] installed.

The same 2,762-parameter MLP (32-64-10), the same clients, one step of SGD each, in NumPy, so that
no time goes into loading or calling a framework. It imports nothing of Flockstep. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from importlib import metadata
from itertools import pairwise
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation

INPUTS, HIDDEN, CLASSES, EXAMPLES = 32, 64, 10, 32
LR = 0.1
A_ROUND = 10  # clients
Arrays = list[Any]

client_app = ClientApp()


@client_app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """One step of SGD on the client's own examples."""
    random = np.random.default_rng(int(context.node_config["partition-id"]))
    inputs = random.standard_normal((EXAMPLES, INPUTS), np.float32)
    labels = random.integers(0, CLASSES, EXAMPLES)
    arrays, loss = step(message.content["arrays"].to_numpy_ndarrays(), inputs, labels)
    metrics = MetricRecord({"loss": loss, "num-examples": EXAMPLES})
    content = RecordDict({"arrays": ArrayRecord(arrays), "metrics": metrics})
    return Message(content=content, reply_to=message)


def step(arrays: Arrays, inputs: Any, labels: Any) -> tuple[Arrays, float]:
    """The weights after one step on the mean cross-entropy, and that loss."""
    w1, b1, w2, b2 = arrays
    hidden = np.maximum(inputs @ w1.T + b1, 0)
    logits = hidden @ w2.T + b2
    logits -= logits.max(axis=1, keepdims=True)
    shares = np.exp(logits)
    shares /= shares.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(-np.log(shares[rows, labels]).mean())
    shares[rows, labels] -= 1
    shares /= len(labels)
    back = (shares @ w2) * (hidden > 0)
    gradients = (back.T @ inputs, back.sum(axis=0), shares.T @ hidden, shares.sum(axis=0))
    return [(w - LR * g).astype(np.float32) for w, g in zip(arrays, gradients, strict=True)], loss


class Timed(FedAvg):  # type: ignore[misc]
    """FedAvg that notes when each round's aggregate is there."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.moments: list[float] = []

    def aggregate_train(self, server_round: int, replies: Any) -> Any:
        """As FedAvg does; checks that every client answered."""
        results = list(replies)
        if any(reply.has_error() for reply in results) or len(results) != A_ROUND:
            raise RuntimeError("a client failed; see Flower's log")
        outcome = super().aggregate_train(server_round, results)
        self.moments.append(time.perf_counter())
        return outcome


def main() -> None:
    """Run the simulation and print what a round took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--warmup", type=int, default=10)
    options = parser.parse_args()
    random = np.random.default_rng(0)
    shapes = ((HIDDEN, INPUTS), (HIDDEN,), (CLASSES, HIDDEN), (CLASSES,))
    initial = [(0.1 * random.standard_normal(shape)).astype(np.float32) for shape in shapes]
    strategy = Timed(
        fraction_train=A_ROUND / options.clients,
        fraction_evaluate=0.0,
        min_train_nodes=A_ROUND,
        min_available_nodes=options.clients,
    )
    server_app = ServerApp()

    @server_app.main()  # type: ignore[untyped-decorator]
    def lead(grid: Grid, context: Context) -> None:
        strategy.start(
            grid=grid, initial_arrays=ArrayRecord(initial), num_rounds=options.rounds + options.warmup
        )

    backend = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=options.clients, backend_config=backend)
    moments = strategy.moments[options.warmup :]
    seconds = [after - before for before, after in pairwise(moments)]
    median = statistics.median(seconds)
    print(
        json.dumps(
            {
                "clients": options.clients,
                "rounds": len(seconds),
                "seconds_a_round": median,
                "updates_a_second": A_ROUND / median,
                "flwr": metadata.version("flwr"),
                "ray": metadata.version("ray"),
                "cores": os.cpu_count(),
            }
        )
    )


if __name__ == "__main__":
    main()
