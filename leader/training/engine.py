"""What every kind of exchange is made of: plans, work orders, sums, steps and the versions that they make."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

from leader.aggregation.base import Aggregator, Contribution, Result
from leader.aggregation.choose import open_aggregate
from leader.aggregation.decoding import Decoder, UpdateReader
from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig
from leader.data.part import Part
from leader.dp.privacy import NoPrivacy, Privacy
from leader.learners.workforce import Workforce
from leader.optimizers.base import Step
from leader.optimizers.choose import make_optimizer
from leader.rounds.deadline import Deadlines
from leader.rounds.protocol import RoundPlan
from leader.runtime import Host
from leader.secagg.masked_sum import MaskedUpdates
from leader.secagg.session import Check
from leader.state import RunState
from leader.training.branches import Branches, NoBranches
from leader.training.planning import RoundPlanner
from leader.training.publisher import Publisher
from leader.training.server_step import step_at_once
from leader.training.work_orders import WorkPlanner
from model.fragments import Fragments
from model.layout import Layout
from protos import edge_pb2, leader_pb2
from utils import faults


class Engine:
    """One run's arithmetic and planning; it holds nothing of a round."""

    def __init__(
        self,
        config: RunConfig,
        layout: Layout,
        workforce: Workforce,
        secret: str,
        *,
        spool: Path | None = None,
        host: Host | None = None,
        privacy: Privacy | None = None,
        branches: Branches | None = None,
    ) -> None:
        self.config = config
        self.layout = layout
        self.workforce = workforce
        self.optimizer = make_optimizer(config)
        self.decoder = Decoder(config.codec, layout, config.streaming.fragments, config.limits.header_bytes)
        self.updates: UpdateReader = (
            self.decoder if config.secagg.mode == "off" else _masked_updates(config, layout)
        )
        self.signed: Check | None = None  # of a secure run: what tells whether a learner has signed
        self.host = host or Host()
        self.branches: Branches = branches or NoBranches()
        self.orders = WorkPlanner(config, secret)
        self.deadlines = Deadlines(
            ceiling_s=config.cohort.deadline_s,
            floor_s=config.cohort.deadline_floor_s,
            k=config.cohort.deadline_k,
        )
        self.privacy = privacy or NoPrivacy(config)
        self.rounds = RoundPlanner(config, workforce, self.orders, self.deadlines, self.privacy)
        self.publisher = Publisher(config, layout, self.host)
        self._fragments = Fragments(layout, config.streaming.fragments)
        self.scratch = spool and spool.parent  # the run's folder, where it has one
        self._spool = spool  # where a robust rule keeps updates

    def aggregate(self, state: RunState, scale: Scale) -> Aggregator:
        """An empty aggregate for one exchange of the round after `state`."""
        shared = self._fragments.of(state.round + 1)
        usual = partial(open_aggregate, self.config, shared, scale, self._spool)
        return self.privacy.aggregate(shared, state, usual)

    async def fold(self, aggregate: Aggregator, contribution: Contribution) -> None:
        """Add an update to the sum, decoded, or count one that is added elsewhere; raises what it is refused with."""
        if contribution.elsewhere is not None:
            self.branches.count(contribution)
            return
        await self.host.compute(self._fold, aggregate, contribution)

    def _fold(self, aggregate: Aggregator, contribution: Contribution) -> None:
        aggregate.add(replace(contribution, payload=self.updates.decode(contribution.payload)))

    def via(self, learner_id: int, part: Part, order: leader_pb2.WorkOrder) -> leader_pb2.Via | None:
        """Where else than at the leader a learner may do an order of a part."""
        member = self.workforce.get(learner_id)
        ticket = edge_pb2.Ticket(
            work_id=order.work_id,
            learner_id=learner_id,
            round=order.round,
            step=order.step,
            version=order.version,
            examples=part.examples,
            local_steps=order.local_steps,
            identity=member.caller.name if member else "",
        )
        return self.branches.via(ticket)

    def server_step(self, plan: RoundPlan, step: int) -> Step:
        """What the server optimizer is told about exchange `step` of a round."""
        place = plan.round, step, plan.steps
        return Step(self.orders.lr(*place), self.orders.local_lr(*place))

    async def step(
        self, before: RunState, aggregate: Aggregator, plan: RoundPlan, step: int
    ) -> tuple[RunState, Result]:
        """The state after the aggregate's step, whose model is served, and what the exchange came to."""
        faults.reach("leader.collected", plan.round)
        everybody = self.workforce.examples()
        shared, told = self._fragments.of(plan.round), self.server_step(plan, step)
        after, result = await self.host.compute(
            step_at_once, before, shared, self.optimizer, aggregate, told, everybody
        )
        return await self.publisher.publish(after, before), result


def _masked_updates(config: RunConfig, layout: Layout) -> UpdateReader:
    """What reads the updates of a run under masks."""
    return MaskedUpdates(
        layout, config.secagg.bits, metrics=len(config.summed_scores), tells_clipping=config.dp.tells_clipping
    )
