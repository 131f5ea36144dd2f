"""`python -m benchmarks.step_time.ddp_rank`: one of two ranks of DistributedDataParallel over gloo, as PyTorch has it.

All is left as the defaults are: buckets of 25 MiB that are reduced while backward runs, buffers from rank 0.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import nullcontext
from datetime import timedelta
from typing import NoReturn

import torch.distributed as dist
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from benchmarks.step_time.ddp_store import LinkedStore
from benchmarks.step_time.gate import Ticket, steps_of
from benchmarks.step_time.link import LINKS, through
from benchmarks.step_time.work import make_optimizer, parse_work

RANKS = 2
_PATIENCE = timedelta(minutes=10)


def main() -> NoReturn:
    """Run blocks of steps until the gate closes."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.step_time.ddp_rank", description=__doc__)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--port", type=int, required=True, help="of the store, which rank 0 opens")
    options, work = parse_work(parser)
    _join(options.rank, options.port)
    model = DistributedDataParallel(work.module)
    optimizer = make_optimizer(model)
    ticket = Ticket()
    while True:
        order = ticket.wait()
        moments = [time.monotonic()]
        for _ in range(order["steps"] + 1):
            optimizer.zero_grad()
            with nullcontext() if order["sync"] else model.no_sync():
                work.backward(model)
            optimizer.step()
            work.wait()
            moments.append(time.monotonic())
        ticket.report({"steps": steps_of(moments)})


def _join(rank: int, port: int) -> None:
    # The interface that gloo listens on; without, it looks up this machine's name.
    os.environ["GLOO_SOCKET_IFNAME"] = "lo0" if sys.platform == "darwin" else "lo"
    store: Store = TCPStore("127.0.0.1", port, RANKS, rank == 0, timeout=_PATIENCE)
    if links := os.environ.get(LINKS):
        store = LinkedStore(store, rank, lambda target: through(target, "rank-1", links))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=_PATIENCE)


if __name__ == "__main__":
    main()
