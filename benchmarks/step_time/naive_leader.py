"""`python -m benchmarks.step_time.naive_leader`: sums all gradients, makes the step and answers with the state."""

from __future__ import annotations

import argparse
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import torch

from benchmarks.step_time.gate import Ticket, steps_of
from benchmarks.step_time.naive_wire import METHOD, OPTIONS, dumps, loads
from benchmarks.step_time.work import Work, make_optimizer, parse_work
from protos import leader_pb2

LEARNERS = 2


class NaiveLeader(grpc.GenericRpcHandler):
    """One step each time that all learners' gradients are in."""

    def __init__(self, work: Work, ticket: Ticket, steps: int) -> None:
        self._module = work.module
        self._optimizer = make_optimizer(work.module)
        self._ticket, self._steps = ticket, steps
        self._gradients: list[list[Any]] = []
        self._answer = b""
        self._moments: list[float] = []
        self._all_in = threading.Barrier(LEARNERS, self._step)

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The one method."""
        if details.method != METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(
            self._exchange, leader_pb2.GradientData.FromString, leader_pb2.ModelChunk.SerializeToString
        )

    def _exchange(self, request: leader_pb2.GradientData, context: object) -> leader_pb2.ModelChunk:
        self._gradients.append(loads(request.chunk))
        self._all_in.wait()
        return leader_pb2.ModelChunk(chunk=self._answer)

    def _step(self) -> None:
        """Sum, step, pickle; the thread that came last does it while the other waits."""
        for parameter, *gradients in zip(self._module.parameters(), *self._gradients, strict=True):
            parameter.grad = torch.from_numpy(sum(gradients) / LEARNERS)
        self._gradients.clear()
        self._optimizer.step()
        self._answer = dumps({name: tensor.numpy() for name, tensor in self._module.state_dict().items()})
        self._moments.append(time.monotonic())
        if len(self._moments) == 1:  # the first step of all
            self._begin_block()
        elif len(self._moments) == self._steps + 2:
            self._ticket.report({"steps": steps_of(self._moments)})
            self._begin_block()

    def _begin_block(self) -> None:
        self._ticket.wait()
        self._moments = [time.monotonic()]


def main() -> int:
    """Lead until the gate closes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time.naive_leader", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="timed steps a block")
    options, work = parse_work(parser)
    server = grpc.server(ThreadPoolExecutor(LEARNERS), options=OPTIONS)
    server.add_generic_rpc_handlers((NaiveLeader(work, Ticket(), options.steps),))
    server.add_insecure_port(f"127.0.0.1:{options.port}")
    server.start()
    server.wait_for_termination()
    return 0


if __name__ == "__main__":
    sys.exit(main())
