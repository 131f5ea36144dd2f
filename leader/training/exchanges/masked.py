"""Masked rounds: updates come masked, and only their sum is ever seen.

Keys and shares travel over the learners' sessions beside training. When the round closes, who is in its sum is
written down, those reveal what takes the masks off, and the sum makes the step. The rest is a synchronous round.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from leader.data.part import Part
from leader.learners.membership import Member
from leader.rounds.protocol import Applied, Reopen, RoundEvent
from leader.secagg.masked_sum import MaskedSum
from leader.secagg.pending import PendingFile
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, Closed, OpenExchange, Recalled
from leader.training.exchanges.masked_group import MaskedGroup, recalled, warn_of_saturation
from leader.training.exchanges.masked_orders import MaskedOrders
from leader.training.exchanges.synchronous import SynchronousExchange
from leader.training.inbox import Submission
from leader.training.mask_plan import plan_of
from leader.training.planning import Opening
from protos import edge_pb2, leader_pb2
from utils.errors import TooFewLearnersError
from utils.secagg.ring import COARSE, FEWEST_LEVELS
from utils.secagg.roster import MOST_ATTEMPTS, need
from utils.secagg.update import ring_of

_log = logging.getLogger(__name__)


class Masked(Protocol):
    """An exchange with masks; see ExchangeKind."""

    @property
    def deadline(self) -> float | None:
        """See ExchangeKind.deadline."""
        ...

    def tick(self) -> None:
        """See ExchangeKind.tick."""
        ...

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See ExchangeKind.masked."""
        ...

    def returned(self, member: Member) -> None:
        """See ExchangeKind.returned."""
        ...

    def stop(self) -> None:
        """See ExchangeKind.stop."""
        ...

    def revive(self) -> RoundEvent | None:
        """See ExchangeKind.revive."""
        ...

    def look_at_learners(self) -> None:
        """Who is here may have changed."""
        ...


class Masking:
    """What masked exchanges of one run have in common: the file of a round's pending sum, and who hears learners."""

    def __init__(self, engine: Engine, path: Path | None = None) -> None:
        self.pending = PendingFile(path)
        self.open_now: Masked | None = None
        self._privacy = engine.privacy
        engine.workforce.subscribe(self._look)

    def begin(self, state: RunState) -> None:
        """See ExchangeKind.begin; raises CheckpointError for a pending sum that is damaged."""
        if self.pending.read(state.round + 1) is None and self.pending.attempt(state.round + 1):
            self._privacy.void(state.round + 1)

    def _look(self) -> None:
        if self.open_now is not None:
            self.open_now.look_at_learners()

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See ExchangeKind.masked."""
        if self.open_now is not None:
            self.open_now.heard(member, message)

    def returned(self, member: Member) -> None:
        """See ExchangeKind.returned."""
        if self.open_now is not None:
            self.open_now.returned(member)

    def revive(self) -> RoundEvent | None:
        """See ExchangeKind.revive."""
        return self.open_now.revive() if self.open_now is not None else None

    def deadline(self) -> float | None:
        """See ExchangeKind.deadline."""
        return self.open_now.deadline if self.open_now is not None else None

    def tick(self) -> None:
        """See ExchangeKind.tick."""
        if self.open_now is not None:
            self.open_now.tick()

    def stop(self) -> None:
        """See ExchangeKind.stop."""
        if self.open_now is not None:
            self.open_now.stop()


class MaskedExchange(SynchronousExchange):
    """A round with one masked sum."""

    orders: MaskedOrders
    aggregate: MaskedSum

    def __init__(self, engine: Engine, state: RunState, opening: Opening, masking: Masking) -> None:
        """Raises CheckpointError for a pending sum that is damaged."""
        pending = masking.pending.read(state.round + 1)
        self._masking = masking
        self._pending = pending
        self._plan = plan_of(
            engine.config, opening, masking.pending.attempt(state.round + 1), state.masks_range
        )
        self._opening = opening = _with_quorum(opening, need(self._plan))
        self._release = engine.privacy.masked(engine.layout, state, self._plan, opening.plan.quorum)
        self._registered: set[str] = set()  # names
        super().__init__(engine, state, opening, pending.parts if pending else ())
        if pending:
            self._take(MaskedSum.restored(engine.layout, pending, self._scale, self._release.after))
            self._group.resume(pending)
        self._check_levels()
        masking.open_now = self
        self.look_at_learners()
        if not self._group.session:
            _log.warning(
                "round %d: %d learners are here, a sum needs %d",
                opening.plan.round,
                len(self._here()),
                need(self._plan),
            )

    def _check_levels(self) -> None:
        """More learners may be here than the config has asked for."""
        plan = self._plan
        if plan.bits == COARSE and (levels := ring_of(plan).limit) < FEWEST_LEVELS:
            _log.warning(
                "round %d: of %d learners a value has %d levels to each side, fewer than %d: set cohort.size, or "
                "secagg.bits=32",
                *(self.machine.plan.round, plan.parties, levels, FEWEST_LEVELS),
            )

    def _order(self, step: int, part: Part) -> leader_pb2.WorkOrder:
        order = super()._order(step, part)
        return self._engine.orders.masked(order, part, self._plan, self._release.noise)

    def _listed(self, place: str, orders: Iterable[tuple[Part, leader_pb2.WorkOrder]]) -> MaskedOrders:
        return MaskedOrders(self.machine, place, orders, via=self._engine.via)

    def _open_sum(self, step: int) -> None:
        layout, release = self._engine.layout, self._release
        self._take(MaskedSum(layout, self._plan, self._scale, release.noise, release.after))
        self._branch(step, edge_pb2.Open(masking=self._plan, noise=release.noise))

    def _take(self, total: MaskedSum) -> None:
        """Add updates up in this sum from now on."""
        self.aggregate, round_, file = total, self.machine.plan.round, self._masking.pending
        self._group = MaskedGroup(self._engine, round_, self._plan, total, self._release, file)
        self.orders.group = self._group

    def holders(self) -> Mapping[str, int]:
        """See OpenExchange: once masks are agreed on, those that have some."""
        held, ready = super().holders(), self._group.ready
        return {part: id_ for part, id_ in held.items() if not ready or self._name_of(id_) in ready}

    def _name_of(self, learner_id: int) -> str:
        member = self._engine.workforce.get(learner_id)
        return member.name if member is not None else ""

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> RoundEvent | None:
        """See OpenExchange: whoever is in the sum stays in it, here or gone."""
        event = await super().add(admitted, submission, counted)
        self._group.counted(admitted.part.id, submission.member.name)
        return event

    # --- the session of masks --------------------------------------------------------------

    def _begin(self) -> None:
        self._group.begin({name: self.orders.order(part) for name, part in self._here().items()})

    def _here(self) -> dict[str, str]:
        """The parts that learners have, by their names; some may not have opened their connection yet."""
        holders = super().holders()
        return {self._name_of(holders[part]): part for part in self._parts if part in holders}

    @property
    def deadline(self) -> float | None:
        """See ExchangeKind.deadline."""
        return self._group.deadline

    def tick(self) -> None:
        """See ExchangeKind.tick."""
        self._group.tick()
        self._begin()

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See ExchangeKind.masked."""
        self._group.heard(member, message)

    def returned(self, member: Member) -> None:
        """See ExchangeKind.returned."""
        self._group.returned(member)

    def stop(self) -> None:
        """See ExchangeKind.stop."""
        self._group.stop()

    def look_at_learners(self) -> None:
        """Who is here may have changed; whose connection broke is waited for as long as its lease lasts."""
        registered = {member.name for member in self._engine.workforce}
        gone = self._registered - registered
        self._registered = registered
        self._begin()
        self._group.lost(gone)

    def revive(self) -> RoundEvent | None:
        """See ExchangeKind.revive: where no masks would ever come off, the same work is masked anew."""
        if not self._group.hopeless:
            return None
        self._group.restart()
        self._branch(0, edge_pb2.Open(masking=self._plan, noise=self._release.noise))
        self._begin()
        return Reopen(self.machine.plan.parts)

    # --- its sum ---------------------------------------------------------------------------

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """See OpenExchange: the round's other attempt, with other work, where the sum can't be unmasked."""
        if self._pending is None and (left := await self._engine.branches.gather()) is not None:
            return Closed(Reopen(self.machine.plan.parts, left))
        reason = await self._group.unmask(self._engine.layout.gathered(self.state.served))
        if self._group.stopped and reason:
            return Closed(Reopen(()))  # what is written down is unmasked when the run is resumed
        known, self._pending = self._recalled(), None
        if reason:
            return await self._again(step, reason)
        if found := self.aggregate.next_range:
            _log.debug("round %d: masks of %g next", self.machine.plan.round, found)
        elif self.aggregate.saturated:
            warn_of_saturation(self._group)
        result = await self._step(step)
        if self._engine.orders.evaluates(self.state.round) and not result.scores:
            _log.warning(
                "round %d: fewer than %d learners scored anything that secagg.metrics names (%s)",
                *(self.machine.plan.round, self._plan.least, ", ".join(self._plan.metrics)),
            )
        if self._engine.config.dp.on:
            result = replace(result, loss=math.nan)  # nobody has told one
        return Closed(Applied(), result, known)

    async def _again(self, step: int, reason: str) -> Closed:
        round_, pending = self.machine.plan.round, self._masking.pending
        await self._engine.host.compute(pending.failed, round_)
        if pending.attempt(round_) >= MOST_ATTEMPTS:
            raise TooFewLearnersError(
                f"round {round_}: {reason}; no learner shows more than {MOST_ATTEMPTS} updates of a round, "
                "and so many of its sums came to nothing: see why few answer (secagg.reveal_s, secagg.threshold), "
                "then --resume"
            )
        _log.warning("round %d is tried again with other batches: %s", round_, reason)
        self._engine.privacy.check_paid(round_, self.machine.plan.parts)
        attempt, found = pending.attempt(round_), self.state.masks_range
        self._plan = plan_of(self._engine.config, self._opening, attempt, found)
        self._open(step)
        self._begin()
        return Closed(Reopen(self.machine.plan.parts))

    def _recalled(self) -> tuple[Recalled, ...]:
        """The updates of a sum that was written down before the leader was started."""
        if self._pending is None:
            return ()
        parts = (self._parts.get(id_) or Part(id_, 0, None, 0) for id_ in self._pending.parts)
        return recalled(parts, super().holders())

    def end(self) -> OpenExchange | None:
        """See OpenExchange."""
        self._masking.open_now = None
        self._group.over()
        return super().end()


def _with_quorum(opening: Opening, least: int) -> Opening:
    """A round that does not close before its sum can be unmasked."""
    plan = opening.plan
    return replace(opening, plan=replace(plan, quorum=max(plan.quorum, min(least, len(plan.parts)))))
