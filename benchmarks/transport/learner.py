"""`python -m benchmarks.transport.learner DIR`: one learner that makes the transfers that it is told to.

The CA in DIR admits it. Prints `ready`; then, for each job that it reads (a line of JSON), when the
transfer began and ended and what CPU time it took.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benchmarks.transport.loops import LoopLearner
from benchmarks.transport.service import ServiceLearner, model_layout, some_values
from benchmarks.transport.sockets import SocketLearner
from benchmarks.transport.wire import CHUNKS, MEMCPY, RECEIVED, SOCKETS, Endpoint, Job, Taken, open_channel
from benchmarks.trust_folder import TrustFolder
from utils.malloc import keep_freed_memory

Move = Callable[[Job], Awaitable[None]]


class Learner:
    """Its connections, each opened when it is first needed."""

    def __init__(self, trust: TrustFolder) -> None:
        self._ca_file = trust.ca_file
        self._own = trust.admit(f"learner-{os.getpid()}")
        self._layout = model_layout()
        self._values = some_values()
        self._copy = np.empty_like(self._values)
        self._moves: dict[Endpoint, Move] = {}

    async def take(self, job: Job) -> Taken:
        """One transfer; connecting is not part of it."""
        if job.endpoint not in self._moves:
            self._moves[job.endpoint] = await self._connect(job.endpoint)
        began, cpu_s = time.monotonic(), time.process_time()
        await self._moves[job.endpoint](job)
        return Taken(began, time.monotonic(), time.process_time() - cpu_s)

    async def _connect(self, endpoint: Endpoint) -> Move:
        if endpoint.way == MEMCPY:
            return self._memcpy
        if endpoint.way in (SOCKETS, RECEIVED):
            sockets = SocketLearner(self._values, endpoint.port, self._ca_file if endpoint.tls else None)
            return sockets.move
        channel = open_channel(endpoint.port, self._own if endpoint.tls else None)
        await channel.channel_ready()
        if endpoint.way in CHUNKS:
            return (await ServiceLearner.open(self._layout, self._values, channel)).move
        return LoopLearner(self._values, channel).move

    async def _memcpy(self, job: Job) -> None:
        np.copyto(self._copy, self._values)


def run(trust: TrustFolder) -> None:
    """Take jobs until standard input closes."""
    learner = Learner(trust)
    print("ready", flush=True)
    with asyncio.Runner() as runner:
        for line in sys.stdin:
            print(json.dumps(asdict(runner.run(learner.take(Job.read(line))))), flush=True)


if __name__ == "__main__":
    keep_freed_memory()
    run(TrustFolder(Path(sys.argv[1])))
