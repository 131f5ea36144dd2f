"""A pool of Ray actors, on one machine or many; each has a model of its own.

The code is the same on all machines of the cluster, as it is imported there. Ray ships objects
between the processes of the one user whose cluster it is; nothing of it is in leader or learner.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
from collections import OrderedDict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from learner.training.update import Assignment, Update
from learner.work.workbench import Tools, build_trainer
from model.task import Examples, Indices
from protos import leader_pb2
from scripts.simulate.parts import PartOf
from scripts.simulate.pool import Training
from utils.errors import ConfigError, FlockstepError

_VERSIONS = 4  # models kept in Ray's store for orders that start from them


class RayActors:
    """Workers in processes of a Ray cluster; see Pool.

    `address` is that of the cluster, or "local" for one that ends with the simulation. An assignment
    whose machine is lost is trained again on another. Raises ConfigError without Ray.
    """

    def __init__(self, address: str, workers: int, run: leader_pb2.RunDescription, tools: Tools) -> None:
        try:
            self._ray: Any = importlib.import_module("ray")
        except ModuleNotFoundError:
            raise ConfigError(
                "--ray: Ray is not installed here; pip install ray, or leave --ray out"
            ) from None
        if address == "local":
            where: dict[str, object] = {"address": "local", "num_cpus": workers, "include_dashboard": False}
        else:
            where = {"address": address}
        try:
            self._ray.init(**where, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(f"--ray {address}: no cluster answers there ({error})") from None
        gpus = 1 if tools.device.type == "cuda" else 0
        actor = self._ray.remote(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=-1)(_Actor)
        text = run.SerializeToString()
        self._idle: asyncio.Queue[Any] = asyncio.Queue()
        self._actors = [actor.remote(text, tools) for _ in range(workers)]
        for made in self._actors:
            self._idle.put_nowait(made)
        self._vectors = _Store(self._ray, _VERSIONS)
        self._data = _Store(self._ray, None)

    def train(self, assignment: Assignment) -> Training:
        """See Pool."""
        return Training.under_way(asyncio.ensure_future(self._train(assignment)))

    async def _train(self, assignment: Assignment) -> Update:
        actor = await self._idle.get()
        try:
            data, indices = _split(assignment.examples)
            update: Update = await actor.train.remote(
                assignment.order.SerializeToString(),
                {"task": assignment.task, "memory": assignment.memory, "holdout": assignment.holdout},
                self._vectors.put(assignment.base),
                None if assignment.control is None else self._vectors.put(assignment.control),
                self._data.put(data),
                indices,
            )
            return update
        except FlockstepError as error:  # Ray's text of it is a traceback
            raise getattr(error, "cause", error) from None
        finally:
            self._idle.put_nowait(actor)

    def close(self) -> None:
        """See Pool."""
        for actor in self._actors:
            self._ray.kill(actor)
        self._ray.shutdown()


def _split(examples: Examples) -> tuple[Examples, Indices | None]:
    """What is sent once, and what is sent with each order."""
    if isinstance(examples, PartOf):
        return examples.data, examples.indices
    return examples, None


class _Store:
    """Objects that are in Ray's store already, by identity; the oldest go when there are more than `most`."""

    def __init__(self, ray: Any, most: int | None) -> None:
        self._ray = ray
        self._most = most
        self._held: OrderedDict[int, tuple[object, Any]] = (
            OrderedDict()
        )  # the object too, so that its id stays

    def put(self, thing: object) -> Any:
        """The reference under which `thing` lies in the store."""
        if id(thing) not in self._held:
            self._held[id(thing)] = (thing, self._ray.put(thing))
            if self._most is not None and len(self._held) > self._most:
                self._held.popitem(last=False)
        return self._held[id(thing)][1]


class _Actor:
    """One worker; runs in a process of the cluster."""

    def __init__(self, run: bytes, tools: Tools) -> None:
        torch.set_num_threads(1)
        self._trainer = build_trainer(leader_pb2.RunDescription.FromString(run), tools)

    def train(
        self,
        order: bytes,
        rest: dict[str, Any],
        base: NDArray[np.float32],
        control: NDArray[np.float32] | None,
        data: Any,
        indices: Indices | None,
    ) -> Update:
        """The update of an assignment that came in pieces."""
        examples = data if indices is None else PartOf(data, indices)
        parsed = leader_pb2.WorkOrder.FromString(order)
        return self._trainer.run(Assignment(parsed, base, examples=examples, control=control, **rest))
