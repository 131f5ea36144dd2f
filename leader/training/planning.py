"""Planning a round: who takes part, when it closes, and the machine that runs it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig
from leader.config.rules import least_updates
from leader.data.part import Part
from leader.learners.selection.base import Candidate
from leader.learners.selection.policies import make_policy
from leader.learners.workforce import Workforce
from leader.rounds.buffer import Buffer, Desk
from leader.rounds.deadline import Deadlines
from leader.rounds.protocol import RoundPlan
from leader.rounds.round import Round
from leader.state import RunState
from leader.training.work_orders import WorkPlanner
from utils.seeds import derive_seed

Machine = Round | Buffer


@dataclass(frozen=True)
class Opening:
    """A round that is about to begin."""

    machine: Machine
    parts: Mapping[str, Part]
    scale: Scale
    learners: int  # that have work in it


class RoundPlanner:
    """Draws cohorts and plans rounds."""

    def __init__(
        self, config: RunConfig, workforce: Workforce, work: WorkPlanner, deadlines: Deadlines
    ) -> None:
        self._config = config
        self._workforce = workforce
        self._work = work
        self._deadlines = deadlines
        self._policy = make_policy(config.cohort)
        self._parts: Mapping[str, Part] = {}  # of the last round

    def scoring(self, state: RunState) -> Opening:
        """An exchange after the last round in which all parts' learners score its model, as many as answer."""
        parts = self._workforce.parts()
        plan = RoundPlan(
            state.round + 1, 1, tuple(sorted(parts)), quorum=1, deadline_s=self._deadlines.of(())
        )
        scale = Scale.of(self._config.aggregate.max_abs, sum(part.examples for part in parts.values()))
        return Opening(Round(plan), parts, scale, len(set(self._workforce.holders().values())))

    def open(self, state: RunState, desk: Desk) -> Opening:
        """The round after `state`; `desk` is what an asynchronous run has open."""
        available = self._workforce.parts()
        if self._config.buffer.size:
            chosen, target = tuple(sorted(available)), self._config.buffer.size
        else:
            chosen = self._cohort(available, state)
            target = min(self._config.cohort.size or len(chosen), len(chosen))
        parts = {part: available[part] for part in chosen}
        holders = self._workforce.holders()
        busy = {holders[part] for part in chosen if part in holders}
        names = {member.name for member in self._workforce if member.learner_id in busy}
        plan = RoundPlan(
            round=state.round + 1,
            steps=self._work.steps(parts.values()),
            parts=chosen,
            quorum=max(math.ceil(self._config.cohort.quorum * target), self._least()),
            deadline_s=self._deadlines.of(names),
            target=target,
        )
        scale = Scale.of(self._config.aggregate.max_abs, self._work.weight_bound(parts.values()))
        machine = self._buffer(plan, desk, state, parts) if self._config.buffer.size else Round(plan)
        return Opening(machine, parts, scale, len(busy))

    def _least(self) -> int:
        """Fewest updates that the aggregate can be made of."""
        return least_updates(self._config.aggregate.rule, self._config.aggregate.byzantine)

    def _cohort(self, available: Mapping[str, Part], state: RunState) -> tuple[str, ...]:
        cohort = self._config.cohort
        drawn = math.ceil(cohort.size * cohort.over_selection)
        return self._choose(available, drawn, state, self._config.seed, state.round + 1)

    def _buffer(self, plan: RoundPlan, desk: Desk, state: RunState, parts: Mapping[str, Part]) -> Buffer:
        seed = derive_seed(self._config.seed, "buffer")
        # A learner that came back with other data must not go on with work on what it had.
        changed = {part for part in parts if self._parts.get(part, parts[part]) != parts[part]}
        tickets = {part: ticket for part, ticket in desk.tickets.items() if part not in changed}
        self._parts = parts

        def pick(idle: Sequence[str], count: int, given: int) -> Sequence[str]:
            return self._choose({part: parts[part] for part in idle}, count, state, seed, given)

        return Buffer(
            plan,
            replace(desk, tickets=tickets),
            at_work=self._config.cohort.size,
            max_staleness=self._config.buffer.max_staleness,
            pick=pick,
        )

    def _choose(
        self, parts: Mapping[str, Part], size: int, state: RunState, seed: int, number: int
    ) -> tuple[str, ...]:
        candidates = [Candidate(part.id, part.examples) for part in parts.values()]
        return self._policy.choose(candidates, size, state.history, seed=seed, round_=number)
