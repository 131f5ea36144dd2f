"""Work orders: everything that determines one learner's update, from the config and the round."""

from __future__ import annotations

import hashlib
import hmac
import math
import statistics
import sys
from collections.abc import Iterable

from leader.aggregation.weighting import Facts, heaviest, make_weighting
from leader.config import RunConfig
from leader.config.rules.dp import orders_a_learner
from leader.data.part import Part
from leader.rounds.buffer import OpenWork
from protos import leader_pb2
from utils.schedule import Schedule, carried

_LONGEST = 4  # passes through the median part in a round
#: Beyond all that a run comes to. Not by another seed: that says which examples of the part are held out.
_ATTEMPT_BATCHES = 1 << 40
#: What an order says of `train` as it stands there.
_AS_CONFIGURED = (
    *("batch_size", "momentum", "weight_decay", "nesterov", "augment", "dtype", "label_smoothing"),
    *("proximal_mu", "control_variates", "personal_lambda"),
)


class WorkPlanner:
    """Turns (round, step, part, model version) into work orders; their ids are made with the run's secret."""

    def __init__(self, config: RunConfig, secret: str) -> None:
        self._config = config
        self._secret = secret.encode()
        train = config.train
        self.schedule = Schedule(train.schedule, train.lr, train.warmup)

    def steps(self, parts: Iterable[Part]) -> int:
        """Exchanges in a round with these parts: without train.local_steps, as many as the largest needs.

        Learners say themselves how large their own data is: no more than four times the median counts of that.
        """
        if self._config.exchange == "delta":
            return 1
        if self._config.train.local_steps:
            return self._config.train.local_steps
        batches = [(self._epoch_batches(part), part.shard is None) for part in parts]
        most = _LONGEST * statistics.median_low(count for count, _ in batches)
        return max(min(count, most) if own else count for count, own in batches)

    def local_steps(self, part: Part) -> int:
        """Batches that a learner trains on for one update of this part."""
        if self._config.exchange == "gradient":
            return 1
        return self._config.train.local_steps or self._epoch_batches(part)

    def _epoch_batches(self, part: Part) -> int:
        train = self._config.train
        return train.local_epochs * math.ceil(part.examples / train.batch_size)

    def progress(self, round_: int, step: int, steps: int) -> float:
        """Fraction of the run that is done before this exchange."""
        return (round_ - 1 + step / steps) / self._config.rounds

    def lr(self, round_: int, step: int, steps: int) -> float:
        """Learning rate when `step` exchanges of the round are done: that of the leader's own next step."""
        return self.schedule.at(self.progress(round_, step, steps))

    def local_lr(self, round_: int, step: int, steps: int) -> float:
        """How far this exchange's local steps carry a constant gradient of one, for SCAFFOLD; 0 in other runs.

        SCAFFOLD's learners all make `train.local_steps`; elsewhere their number depends on what a learner
        says that it has, and could be billions.
        """
        train = self._config.train
        count = train.local_steps if train.control_variates else 0
        start, end = self.progress(round_, step, steps), self.progress(round_, step + 1, steps)
        spread = end - start
        rates = (self.schedule.at(start + spread * i / count) for i in range(count))
        return carried(rates, train.momentum, train.nesterov)

    def evaluates(self, round_: int) -> bool:
        """Whether learners score the model of `round_` (0: the initial weights), at the start of the next one."""
        every = self._config.evaluation.federated_every
        return every > 0 and round_ % every == 0

    def heaviest(self, parts: Iterable[Part], quorum: int) -> int:
        """Most that an update counts by aggregate.max_share, whichever `quorum` of these parts a round closes on."""
        share = self._config.aggregate.max_share
        lightest = sorted(part.examples for part in parts)[: quorum - 1]
        return heaviest(lightest, share) if 0 < share < 1 else sys.maxsize

    def weight_bound(self, parts: Iterable[Part]) -> int:
        """Largest total weight of a round's updates: one of each part, or a buffer full of any."""
        weighting, size = make_weighting(self._config), self._config.buffer.size
        size += self._config.group_size - 1  # of a masked group all count, or none
        weights = [weighting.weight(Facts(part.examples)) for part in parts]
        return size * max(weights, default=0) if size else sum(weights)

    def scoring(self, round_: int, part: Part, *, version: int, counted: int) -> leader_pb2.WorkOrder:
        """The work order that asks for scores of a model, and for no training."""
        order = self.order(round_, 0, 1, part, version=version, first_exchange=0, counted=counted)
        order.local_steps = order.overlap_steps = 0
        order.evaluate = True
        order.ClearField("start_loss")
        return self._sealed(order, part)

    def buffered(self, part: Part, work: OpenWork, max_staleness: int) -> leader_pb2.WorkOrder:
        """The work order of an asynchronous run; later work on a part goes on in its batches."""
        order = self.order(work.round, 0, 1, part, version=work.version, first_exchange=0)
        order.step = work.turn
        order.first_batch = work.turn * order.local_steps
        order.last_round = work.round + max_staleness
        return self._sealed(order, part)

    def masked(
        self,
        order: leader_pb2.WorkOrder,
        part: Part,
        plan: leader_pb2.MaskPlan,
        noise: leader_pb2.NoisePlan | None = None,
    ) -> leader_pb2.WorkOrder:
        """`order`, its update to be masked; a further attempt is other work, with other batches."""
        order.masking.CopyFrom(plan)
        if noise is not None:
            order.noise.CopyFrom(noise)
        order.first_batch += plan.attempt * _ATTEMPT_BATCHES
        return self._sealed(order, part)

    def order(
        self,
        round_: int,
        step: int,
        steps: int,
        part: Part,
        *,
        version: int,
        first_exchange: int,
        counted: int | None = None,
    ) -> leader_pb2.WorkOrder:
        """The work order; `first_exchange` counts the exchanges of all rounds before this one.

        `counted` is the newest round that an update of the part is in, where that is known in order.
        """
        train = self._config.train
        gradient = self._config.exchange == "gradient"
        local_steps = self.local_steps(part)
        order = leader_pb2.WorkOrder(
            round=round_,
            step=step,
            version=version,
            shard=part.shard,
            seed=part.seed,
            exchange=self._config.exchange,
            first_batch=first_exchange + step if gradient else (round_ - 1) * local_steps,
            local_steps=local_steps,
            progress_start=self.progress(round_, step, steps),
            progress_end=self.progress(round_, step + 1, steps),
            schedule=leader_pb2.Schedule(kind=train.schedule, lr=train.lr, warmup=train.warmup),
            evaluate=self.evaluates(round_ - 1) and step == 0,
            start_loss=self._config.aggregate.weighting == "qfedavg",
            counted_round=None if gradient else counted,  # of a round of steps some may be missing
            **{name: getattr(train, name) for name in _AS_CONFIGURED},
        )
        self._fill(order)
        return self._sealed(order, part)

    def _fill(self, order: leader_pb2.WorkOrder) -> None:
        """What only some runs ask for."""
        if self._config.streaming.fragments:
            self._stream(order)
        if (dp := self._config.dp).mode == "examples":
            order.examples.clip, order.examples.noise_multiplier = dp.clip, dp.noise_multiplier
            order.examples.epsilon, order.examples.delta = dp.epsilon, dp.delta
            order.examples.rounds = orders_a_learner(self._config)

    def _stream(self, order: leader_pb2.WorkOrder) -> None:
        """Fill in whose turn it is, and what the round before has changed."""
        streaming = self._config.streaming
        order.fragments = streaming.fragments
        order.fragment = (order.round - 1) % streaming.fragments
        if order.round > 1:
            order.fresh = (order.round - 2) % streaming.fragments
        # All learners take the fragment in before they send the change of the next.
        order.overlap_steps = min(streaming.overlap_steps, order.local_steps - 1)
        order.mix = streaming.mix

    def _sealed(self, order: leader_pb2.WorkOrder, part: Part) -> leader_pb2.WorkOrder:
        """`order` with the id that all its inputs together have in this run."""
        order.ClearField("work_id")
        digest = hmac.new(self._secret, f"{part.id}:".encode(), hashlib.sha256)
        digest.update(order.SerializeToString(deterministic=True))
        order.work_id = f"{order.round}-{order.step}-{digest.hexdigest()[:32]}"
        return order
