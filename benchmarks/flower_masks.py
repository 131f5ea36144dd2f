"""The other side of the benchmark `beside_flower`: one round of Flower's SecAgg+, by a Python that has flwr.

Flower's own SecAggPlusWorkflow (flwr/server/workflow/secure_aggregation/secaggplus_workflow.py) asks Flower's own
secaggplus_mod (flwr/client/mod/secure_aggregation/secaggplus_mod.py) of each client, in one process. Messages are
serialised as on the wire, which counts bytes but no time. It imports nothing of Flockstep. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import numpy as np
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.client.mod.secure_aggregation.secaggplus_mod import secaggplus_mod
from flwr.common import (
    Code,
    FitIns,
    FitRes,
    Parameters,
    Status,
    ndarrays_to_parameters,
    parameters_to_ndarrays,
)
from flwr.common.secure_aggregation.secaggplus_constants import RECORD_KEY_CONFIGS, Key, Stage
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.compat.common import recorddict_compat as compat
from flwr.proto.message_pb2 import Message as Wire
from flwr.server.compat.legacy_context import LegacyContext
from flwr.server.strategy import FedAvg
from flwr.server.workflow.constant import MAIN_CONFIGS_RECORD, MAIN_PARAMS_RECORD
from flwr.server.workflow.constant import Key as WorkflowKey
from flwr.server.workflow.secure_aggregation.secaggplus_workflow import SecAggPlusWorkflow
from flwr.supercore.task_identity import TaskIdentity

EXAMPLES = 1000  # of each client: the largest weight, at which Flower rounds least


class Strategy(FedAvg):  # type: ignore[misc]
    """All clients; keeps the mean that the workflow hands over, and does nothing with it that would take time."""

    def __init__(self, nodes: Iterable[int]) -> None:
        super().__init__()
        self.nodes = nodes
        self.mean: Any = None

    def configure_fit(self, server_round: int, parameters: Any, client_manager: Any) -> Any:
        """Instructions without a model, whose bytes are no matter of masks."""
        return [(SimpleNamespace(node_id=node), FitIns(Parameters([], ""), {})) for node in self.nodes]

    def aggregate_fit(self, server_round: int, results: Any, failures: Any) -> Any:
        """Flower gives each result the mean."""
        self.mean = results[0][1].parameters
        return None, {}


class Clients:
    """Stands for a Grid: each message goes to its client's mod, and the answer comes back."""

    def __init__(self, updates: dict[int, Any], lost: int) -> None:
        self.updates = updates
        self.lost = lost  # sends keys and shares, then nothing
        self.contexts = {node: Context(1, node, {}, RecordDict(), {}) for node in updates}
        self.seconds, self.up, self.down = (dict.fromkeys(updates, 0.0) for _ in range(3))
        self.apart = 0.0  # CPU that is not the server's: clients, training, wire

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """As a Grid does."""
        began = time.process_time()
        answers = [self._answer(message) for message in messages]
        self.apart += time.process_time() - began
        return answers

    def _answer(self, message: Message) -> Message:
        node = message.metadata.dst_node_id
        message, size = _travelled(message)
        self.down[node] += size
        stage = message.content.config_records[RECORD_KEY_CONFIGS][Key.STAGE]
        if node == self.lost and stage == Stage.COLLECT_MASKED_VECTORS:
            return Message(Error(0, "lost"), reply_to=message)
        trained = 0.0

        def train(asked: Message, context: Context) -> Message:
            nonlocal trained
            began = time.process_time()
            made = FitRes(Status(Code.OK, ""), ndarrays_to_parameters([self.updates[node]()]), EXAMPLES, {})
            answer = Message(compat.fitres_to_recorddict(made, False), reply_to=asked)
            trained = time.process_time() - began
            return answer

        began = time.process_time()
        answer = secaggplus_mod(message, self.contexts[node], train)
        self.seconds[node] += time.process_time() - began - trained
        answer, size = _travelled(answer)
        self.up[node] += size
        return answer


def _travelled(message: Message) -> tuple[Message, int]:
    sent = message_to_proto(message).SerializeToString()
    return message_from_proto(Wire.FromString(sent)), len(sent)


def main() -> None:
    """One round; prints what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--values", type=int, required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--threshold", type=int, required=True)
    options = parser.parse_args()
    base = np.random.default_rng(0).standard_normal(options.values, np.float32)
    factors = np.linspace(0.1, 1.0, options.clients, dtype=np.float32)
    updates = {node: lambda factor=factor: base * factor for node, factor in enumerate(factors, 1)}
    clients, strategy = Clients(updates, lost=1), Strategy(updates)
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 1, 1, 0  # whose messages are made here
    context = LegacyContext(Context(1, 0, {}, RecordDict(), {}), strategy=strategy)
    context.state[MAIN_CONFIGS_RECORD] = ConfigRecord({WorkflowKey.CURRENT_ROUND: 1})
    context.state[MAIN_PARAMS_RECORD] = compat.parameters_to_arrayrecord(Parameters([], ""), True)
    workflow = SecAggPlusWorkflow(options.clients, options.threshold)
    began = time.process_time()
    workflow(clients, context)
    server_s = time.process_time() - began - clients.apart
    (mean,) = parameters_to_ndarrays(strategy.mean)
    survivors = [node for node in updates if node != clients.lost]
    found = {
        "client_s": [clients.seconds[node] for node in survivors],
        "server_s": server_s,
        "up": clients.up[survivors[0]],
        "down": clients.down[survivors[0]],
        "error": float(np.abs(mean - base * factors[1:].mean()).max()),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
