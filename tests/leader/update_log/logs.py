"""Updates as they stand in a log, and the sums that they should come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.exact_sum import ExactSum, Scale
from leader.distributed.messages import scale_message
from leader.update_log.grid import Grid
from leader.update_log.records import joined
from protos import log_pb2

SCALE = Scale.of(1024.0, 10_000)


@dataclass(frozen=True)
class Update:
    """One upload; without `buffers` it brings parameters alone."""

    uid: bytes
    weight: int
    factor: float
    values: NDArray[np.float32]
    buffers: bool


def updates_of(grid: Grid, count: int, seed: int = 0) -> list[Update]:
    """Some updates of a model, whose weights and factors differ."""
    rng = np.random.default_rng(seed)
    factors = (1.0, 0.3, 1.7)
    return [
        Update(
            rng.bytes(16),
            int(rng.integers(1, 200)),
            factors[number % 3],
            rng.normal(size=grid.values).astype(np.float32),
            number % 4 != 3,
        )
        for number in range(count)
    ]


def plan_of(grid: Grid, number: int = 1) -> log_pb2.LogPlan:
    """The plan of a sum."""
    return log_pb2.LogPlan(
        sum=number,
        scale=scale_message(SCALE),
        parameters=grid.parameters,
        values=grid.values,
        partitions=grid.partitions,
        bits=grid.bits,
    )


def block(grid: Grid, update: Update, number: int, plan: log_pb2.LogPlan | None = None) -> log_pb2.LogRecord:
    """Block `number` of an update, as an edge writes it."""
    start, stop = grid.blocks[number]
    is_buffers = start >= grid.parameters
    counts = update.buffers or not is_buffers
    made = log_pb2.Block(
        plan=plan or plan_of(grid),
        uid=update.uid,
        number=number,
        weight=update.weight if counts else 0,
        factor=1.0 if is_buffers else update.factor,
        values=update.values[start:stop].tobytes() if counts else b"",
    )
    return log_pb2.LogRecord(block=made)


def close(
    grid: Grid, members: Iterable[Update], attempt: int = 1, plan: log_pb2.LogPlan | None = None
) -> log_pb2.LogRecord:
    """What asks for the sum over `members`."""
    uids = joined(member.uid for member in members)
    return log_pb2.LogRecord(close=log_pb2.LogClose(plan=plan or plan_of(grid), attempt=attempt, uids=uids))


def expected(grid: Grid, members: Sequence[Update]) -> tuple[tuple[int, int], NDArray[np.int64]]:
    """Total weights of parameters and buffers, and the sum of all values, by one ExactSum each."""
    parameters = ExactSum(grid.parameters, SCALE)
    buffers = ExactSum(grid.values - grid.parameters, SCALE)
    for one in members:
        parameters.add(one.values[: grid.parameters], one.weight, factor=one.factor)
        parameters.count(one.weight)
        if one.buffers:
            buffers.add(one.values[grid.parameters :], one.weight)
            buffers.count(one.weight)
    return (parameters.weight, buffers.weight), np.concatenate([parameters.whole(), buffers.whole()])
