"""Planning a round: who takes part, and when it closes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

from leader.aggregation.exact_sum import Scale
from leader.config import RunConfig
from leader.config.rules.aggregate import least_updates
from leader.data.part import Part
from leader.dp.privacy import Privacy
from leader.learners.selection.base import Candidate
from leader.learners.selection.policies import make_policy
from leader.learners.workforce import Workforce
from leader.rounds.deadline import Deadlines
from leader.rounds.protocol import RoundPlan
from leader.state import RunState
from leader.training.work_orders import WorkPlanner


@dataclass(frozen=True)
class Opening:
    """A round that is about to begin."""

    plan: RoundPlan
    parts: Mapping[str, Part]
    scale: Scale
    learners: int  # that have work in it


class RoundPlanner:
    """Draws cohorts and plans rounds."""

    def __init__(
        self,
        config: RunConfig,
        workforce: Workforce,
        work: WorkPlanner,
        deadlines: Deadlines,
        privacy: Privacy,
    ) -> None:
        self._config = config
        self._workforce = workforce
        self._work = work
        self._deadlines = deadlines
        self._privacy = privacy
        self._policy = make_policy(config.cohort)
        #: The parts that a cohort was drawn from last, and as a policy wants them; the next ones are mostly the same.
        self._listed: tuple[Mapping[str, Part], Sequence[Candidate]] = {}, ()

    def cohort(self, state: RunState) -> Opening:
        """The round after `state`, of the parts that are drawn for it."""
        cohort = self._config.cohort
        available = self._privacy.payable(self._workforce.available(), state.round + 1)
        drawn = math.ceil(cohort.size * cohort.over_selection)
        chosen = self.choose(available, drawn, state, self._config.seed, state.round + 1)
        target = min(cohort.size or len(chosen), len(chosen))
        return self._opening(state, {part: available[part] for part in chosen}, target)

    def buffer(self, state: RunState) -> Opening:
        """The round after `state`, of so many updates of any parts that can pay for it."""
        available = self._privacy.payable(self._workforce.available(), state.round + 1)
        return self._opening(
            state, {part: available[part] for part in sorted(available)}, self._config.buffer.size
        )

    def scoring(self, state: RunState) -> Opening:
        """An exchange after the last round in which all parts' learners score its model, as many as answer."""
        parts = self._workforce.available()
        plan = RoundPlan(
            state.round + 1, 1, tuple(sorted(parts)), quorum=1, deadline_s=self._deadlines.of(())
        )
        scale = Scale.of(self._config.aggregate.max_abs, sum(part.examples for part in parts.values()))
        return Opening(plan, parts, scale, len(set(self._workforce.holders().values())))

    def _opening(self, state: RunState, parts: Mapping[str, Part], target: int) -> Opening:
        holders = self._workforce.holders()
        busy = {holders[part] for part in parts if part in holders}
        names = {member.name for learner in busy if (member := self._workforce.get(learner))}
        plan = RoundPlan(
            round=state.round + 1,
            steps=self._work.steps(parts.values()),
            parts=tuple(parts),
            quorum=max(math.ceil(self._config.cohort.quorum * target), self._least()),
            deadline_s=self._deadlines.of(names),
            target=target,
        )
        bounds = self._work.weight_bound(parts.values()), self._work.heaviest(parts.values(), plan.quorum)
        scale = Scale.of(self._config.aggregate.max_abs, *bounds)
        return Opening(plan, parts, scale, len(busy))

    def _least(self) -> int:
        """Fewest updates that the aggregate can be made of."""
        return least_updates(self._config.aggregate.rule, self._config.aggregate.byzantine)

    def choose(
        self, parts: Mapping[str, Part], size: int, state: RunState, seed: int, number: int
    ) -> tuple[str, ...]:
        """`size` of `parts` (0: all), by the run's policy; draw `number` from `seed`."""
        if self._listed[0] is not parts:
            candidates = [Candidate(part.id, part.examples) for part in parts.values()]
            self._listed = parts, sorted(candidates, key=attrgetter("part"))
        return self._policy.choose_of(self._listed[1], size, state.history, seed=seed, round_=number)
