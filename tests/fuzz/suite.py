"""All targets by name, each run in what it needs."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from tests.fuzz import leader_targets, learner_targets, masking_targets
from tests.fuzz.codec_targets import ChangeTarget, EncodedUpdateTarget
from tests.fuzz.gradient_targets import ExchangeTarget
from tests.fuzz.leader import in_process_leader
from tests.fuzz.leader_targets import RpcTarget
from tests.fuzz.learner_targets import LearnerTarget, in_process_learner
from tests.fuzz.masking_targets import RunTarget
from tests.fuzz.payload_targets import (
    CheckpointTarget,
    DataTarget,
    FramingTarget,
    HeaderTarget,
    ModelTarget,
    UpdateTarget,
)
from tests.fuzz.runner import Tally, Target, run, run_async
from tests.fuzz.trust_targets import EnrolTarget

Run = Callable[[int, int], Tally]  # count, seed
_MEMORY = Path("/dev/shm")  # where files are written fast


Plain = HeaderTarget | UpdateTarget | FramingTarget | EncodedUpdateTarget | ChangeTarget
_PLAIN: tuple[type[Plain], ...] = (
    HeaderTarget,
    UpdateTarget,
    FramingTarget,
    EncodedUpdateTarget,
    ChangeTarget,
)


def _payload(make: type[Plain], count: int, seed: int) -> Tally:
    return run(make(seed), count, seed)


def _stream(make: type[ModelTarget | DataTarget], count: int, seed: int) -> Tally:
    target = make(seed)
    return asyncio.run(run_async(target, count, seed))


def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None)


def _checkpoint(count: int, seed: int) -> Tally:
    with _folder() as folder, closing(CheckpointTarget(seed, Path(folder))) as target:
        return run(target, count, seed)


def _enrol(count: int, seed: int) -> Tally:
    with _folder() as folder:
        return asyncio.run(run_async(EnrolTarget(Path(folder), seed), count, seed))


def _masked(make: type[RunTarget], count: int, seed: int) -> Tally:
    with _folder() as folder:
        return run(make(Path(folder), seed), count, seed)


def _leader_rpc(make: type[RpcTarget], count: int, seed: int) -> Tally:
    async def fuzz() -> Tally:
        async with in_process_leader(**make.changes) as leader:
            target = make(leader, seed)
            return await run_async(target, count, seed)

    return asyncio.run(fuzz())


def _learner_rpc(make: type[LearnerTarget], count: int, seed: int) -> Tally:
    async def fuzz() -> Tally:
        async with in_process_learner() as learner:
            target = make(*learner, seed)
            return await run_async(target, count, seed)

    return asyncio.run(fuzz())


def _suite() -> dict[str, Run]:
    runs: dict[type[Target], Run] = {CheckpointTarget: _checkpoint, EnrolTarget: _enrol}
    runs |= {kind: partial(_payload, kind) for kind in _PLAIN}
    runs |= {kind: partial(_stream, kind) for kind in (ModelTarget, DataTarget)}
    runs |= {kind: partial(_leader_rpc, kind) for kind in leader_targets.TARGETS}
    runs[ExchangeTarget] = partial(_leader_rpc, ExchangeTarget)
    runs |= {kind: partial(_masked, kind) for kind in masking_targets.TARGETS}
    runs |= {kind: partial(_learner_rpc, kind) for kind in learner_targets.TARGETS}
    return {kind.name: run for kind, run in runs.items()}


SUITE = _suite()
