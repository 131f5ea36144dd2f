"""Streaming DiLoCo at the learner: what a replica of its own does between the fragments that it exchanges.

Douillard et al. 2025 (arXiv 2501.18512, algorithm 2). A learner trains on with its own weights. A round
exchanges the change of one fragment, counted from the global weights that the learner took in last; and early
in the next round, after `overlap_steps` local steps, it takes in what all learners' changes have made of the
fragment. A fragment changes in its own rounds alone, so the global weights taken in last are those of the
order's version, for every fragment. The momentum of local steps goes on over rounds, as the paper's inner
optimizers do; in other delta runs it starts anew.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from learner.training.algorithms.base import Algorithm
from learner.training.local_run import mean
from learner.training.local_sgd import LocalSgd
from learner.training.update import Head, Replica
from model.flat import FlatModel
from model.layout import Layout
from protos import leader_pb2
from utils.errors import ConfigError, IncompatibleError, PayloadError
from utils.vector import Vector

# What a part remembers.
_REPLICA = "replica"  # (total,): its weights and buffers after its last update
_VELOCITY = "velocity"  # (P,): of its local steps; not there without momentum
_ROUND = "replica_round"  # (1,): round of that update; exact to 2**24

#: What a prediction can't know of an order, and the steps before its fragment is taken in don't depend on.
_UNKNOWN = ("work_id", "version", "evaluate", "counted_round")
_LEAST_PROGRESS = 1e-9


class StreamingDiloco(Algorithm):
    """`streaming.fragments`: go on with the part's own weights, and take the fresh fragment in between two steps."""

    _sgd: LocalSgd  # whose momentum goes on in the next round

    def ahead(self) -> Head | None:
        """See Algorithm: the steps before the fragment is taken in; None where the part has no weights yet."""
        run, order, began = self.run, self.run.order, time.perf_counter()
        replica = replica_of(order, run.memory, run.model.layout)
        if replica is None:
            return None
        run.model.load(replica.vector)
        velocity = None if replica.velocity is None else run.tensor(replica.velocity)
        sgd = LocalSgd(order, run.model, velocity=velocity)
        losses = run.steps(sgd, range(order.overlap_steps))
        return Head(order, replica, run.model.snapshot(), sgd, losses, time.perf_counter() - began)

    def train(self) -> tuple[int, float] | None:
        """See Algorithm."""
        run, order = self.run, self.run.order
        head = run.assignment.head or self.ahead()
        if head is None:  # all fragments are the leader's, which the model holds by now
            self._sgd = LocalSgd(order, run.model)
            return run.train(self._sgd)
        run.model.load(head.vector)
        take_in(order, run.model, run.tensor(run.assignment.base))
        self._sgd = head.sgd
        return mean(head.losses + run.steps(head.sgd, range(order.overlap_steps, order.local_steps)))

    def remember(self, change: Vector) -> Mapping[str, Vector]:
        """See Algorithm."""
        return remembered(self.run.order, self.run.model, self._sgd)


def is_head_of(head: Head, order: leader_pb2.WorkOrder, memory: Mapping[str, Vector]) -> bool:
    """Whether `order` begins with these steps, of a part that remembers `memory`."""
    return memory.get(_REPLICA) is head.replica.vector and same_steps(head.order, order)


def replica_of(order: leader_pb2.WorkOrder, memory: Mapping[str, Vector], layout: Layout) -> Replica | None:
    """What the part goes on with; None = it starts from the whole model of the order.

    It does so if it took no part in the round before, or another learner did for it: then it never
    took in what the rounds in between have changed. Raises IncompatibleError for another model's.
    """
    vector, velocity, made = (memory.get(name) for name in (_REPLICA, _VELOCITY, _ROUND))
    if vector is None or made is None or not order.HasField("fresh") or made[0] != order.round - 1:
        return None
    if vector.size != layout.total or (velocity is not None and velocity.size != layout.parameter_count):
        raise IncompatibleError("what is kept here (replica) is of another model; use another --state-dir")
    return Replica(vector, velocity)


def remembered(order: leader_pb2.WorkOrder, model: FlatModel, sgd: LocalSgd) -> dict[str, Vector]:
    """What a part keeps after the update of `order`, whose steps `sgd` has made on `model`."""
    kept = {_REPLICA: model.vector, _ROUND: torch.tensor([order.round], dtype=torch.float32)}
    if sgd.velocity is not None:
        kept[_VELOCITY] = sgd.velocity
    return {name: tensor.detach().cpu().numpy().copy() for name, tensor in kept.items()}


@torch.no_grad()
def take_in(order: leader_pb2.WorkOrder, model: FlatModel, base: Tensor) -> None:
    """Take the fresh fragment in: own weights become mix * own + (1 - mix) * those of `base`, (total,).

    Buffers, the averages that learners keep of what they see, become those of `base`.
    """
    shared = exchanged(order, model.layout, order.fresh).shared
    split = model.layout.parameter_count
    for entry in shared:
        own, theirs = (vector[entry.start : entry.start + entry.size] for vector in (model.vector, base))
        if entry.start < split:
            own.mul_(order.mix).add_(theirs, alpha=1 - order.mix)
        else:
            own.copy_(theirs)


def exchanged(order: leader_pb2.WorkOrder, layout: Layout, fragment: int) -> Layout:
    """What a round that exchanges `fragment` does: all of `layout` where the order is not of a streamed run.

    Raises IncompatibleError for a fragment that there can't be.
    """
    if not order.fragments:
        return layout
    try:
        return layout.fragment(fragment, order.fragments)
    except ConfigError as error:
        raise IncompatibleError(f"the leader and this learner differ in the model: {error}") from None


def check_streaming(order: leader_pb2.WorkOrder) -> None:
    """Raise PayloadError for an order of a streamed run that says nothing that could be done."""
    if order.fragments and not (
        order.exchange == "delta"
        and max(order.fragment, order.fresh) < order.fragments
        and order.overlap_steps < max(1, order.local_steps)
        and 0 <= order.mix <= 1
    ):
        raise PayloadError(
            f"work order for fragment {order.fragment} of {order.fragments} with {order.fresh} taken in after "
            f"{order.overlap_steps} of {order.local_steps} steps; install the same release on both sides"
        )


def next_order(order: leader_pb2.WorkOrder) -> leader_pb2.WorkOrder | None:
    """The order that comes after this one for the same part, as far as can be told; None after the last."""
    if not _LEAST_PROGRESS < order.progress_end < 1:
        return None
    rounds = round(order.round / order.progress_end)
    following = leader_pb2.WorkOrder()
    following.CopyFrom(order)
    following.round += 1
    following.first_batch += order.local_steps
    following.progress_start = order.round / rounds
    following.progress_end = following.round / rounds
    following.fresh = order.fragment
    following.fragment = (order.fragment + 1) % order.fragments
    return following


def same_steps(one: leader_pb2.WorkOrder, other: leader_pb2.WorkOrder) -> bool:
    """Whether both orders begin with the same steps, if their part has the same weights."""
    return _known(one) == _known(other)


def _known(order: leader_pb2.WorkOrder) -> leader_pb2.WorkOrder:
    known = leader_pb2.WorkOrder()
    known.CopyFrom(order)
    for name in _UNKNOWN:
        known.ClearField(name)
    return known
