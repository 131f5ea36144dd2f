"""`python -m benchmarks.step_time.naive_learner`: sends all gradients after backward, and waits for the state."""

from __future__ import annotations

import argparse
from typing import NoReturn

import grpc
import torch

from benchmarks.step_time.gate import START_S
from benchmarks.step_time.naive_wire import METHOD, OPTIONS, dumps, loads
from benchmarks.step_time.work import parse_work
from protos import leader_pb2


def main() -> NoReturn:
    """Train until the leader is gone."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time.naive_learner", description=__doc__)
    parser.add_argument("--port", type=int, required=True, help="that leads to the leader")
    options, work = parse_work(parser)
    state = work.module.state_dict()
    with grpc.insecure_channel(f"127.0.0.1:{options.port}", options=OPTIONS) as channel:
        grpc.channel_ready_future(channel).result(START_S)
        exchange = channel.unary_unary(
            METHOD, leader_pb2.GradientData.SerializeToString, leader_pb2.ModelChunk.FromString
        )
        while True:
            work.module.zero_grad()
            work.backward(work.module)
            gradients = [p.grad.numpy() for p in work.module.parameters() if p.grad is not None]
            answer = exchange(leader_pb2.GradientData(chunk=dumps(gradients)))
            for name, values in loads(answer.chunk).items():
                state[name].copy_(torch.from_numpy(values))


if __name__ == "__main__":
    main()
