"""Masked asynchronous rounds: groups of learners, each with a masked sum, whose mean goes into the buffer.

Idle learners get work in groups, on one model. Once the masks are off a group's sum, that is on disk until the round
whose buffer it is in is committed; it counts as so many updates as it has, by the age of the group.
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
import zlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from leader.aggregation.base import Aggregator, Contribution
from leader.aggregation.exact_sum import Scale
from leader.config.rules.secagg import sum_of_least
from leader.data.part import Part
from leader.dp.masked_release import MaskedRelease
from leader.learners.membership import Member
from leader.rounds.groups import Groups
from leader.rounds.protocol import (
    CloseGroup,
    Group,
    OpenOrder,
    Outdated,
    Phase,
    Remasked,
    Reopen,
    RoundEvent,
    Unmasked,
)
from leader.secagg.masked_sum import MaskedSum
from leader.secagg.pending import PendingFile, Place
from leader.state import RunState
from leader.training.engine import Engine
from leader.training.exchanges.base import Admitted, Closed, OpenExchange
from leader.training.exchanges.buffered import BufferedExchange, BufferedOrders
from leader.training.exchanges.masked_group import MaskedGroup, recalled, warn_of_saturation
from leader.training.exchanges.masked_orders import masked_contribution
from leader.training.inbox import Submission, Upload
from leader.training.mask_plan import plan_of, weight_bound
from leader.training.planning import Opening
from protos import leader_pb2
from utils import faults
from utils.secagg.roster import need
from utils.vector import Vector
from utils.wire.payload import Payload, encode_header, parse_header

_log = logging.getLogger(__name__)
_FILE = "pending-sum-{}-{}.safetensors"
_NAME = re.compile(r"pending-sum-([0-9]{1,18})-([0-9]{1,18})\.safetensors", re.ASCII)

GroupOf = Callable[[str], MaskedGroup]


class GroupOrders(BufferedOrders):
    """Orders of an asynchronous run whose answers count only under the masks of their group."""

    group_of: GroupOf  # of a part's open order
    begin_groups: Callable[[], None]

    def renew(self) -> None:
        """Make all orders that are open again: their groups begin anew."""
        self._by_part.clear()

    def give(self, learner_id: int, part: str) -> leader_pb2.WorkOrder:
        """See OpenOrders; the group's learners can agree on masks then."""
        order = super().give(learner_id, part)
        self.begin_groups()
        return order

    def _made(self, part: Part, opened: OpenOrder) -> leader_pb2.WorkOrder:
        group = self.group_of(part.id)
        return self._planner.masked(super()._made(part, opened), part, group.plan, group.sum.noise)

    def admit(self, member: Member, upload: Upload, work_id: str) -> Admitted:
        """See OpenOrders."""
        part = self.part_of(member.learner_id, work_id)
        contribution = masked_contribution(self.group_of(part.id), member, upload, part)
        return Admitted(part, self.order(part.id), contribution)


class MaskedBufferedExchange(BufferedExchange):
    """A run's buffers, filled by groups."""

    orders: GroupOrders

    def __init__(self, engine: Engine, state: RunState) -> None:
        """Raises CheckpointError for a pending sum that is damaged."""
        self._open: dict[Group, MaskedGroup] = {}
        self._decided: dict[Group, tuple[MaskedGroup, Place]] = {}  # who is in the sum is known for good
        self._counted: dict[Group, tuple[MaskedGroup, Place]] = {}  # in the open buffer
        self._notes: dict[Group, list[Callable[[], None]]] = {}  # to be called once a group counts
        self._known: list[Part] = []  # in the buffer, by updates that came before the leader was started
        self._served: dict[int, Vector] = {}  # models, by the round whose work starts from them
        self._registered: set[str] = set()  # names
        super().__init__(engine, state)
        self.state = state
        self._read(engine.scratch)

    def _open_orders(self, state: RunState, older: Mapping[int, RunState]) -> GroupOrders:
        self._served = {round_: one.served for round_, one in older.items()}
        split = self._engine.layout.parameter_count
        buffers = {round_: one.vector[split:].copy() for round_, one in older.items()}
        orders = GroupOrders(self._engine.orders, state, split, self._max_staleness, buffers)
        orders.group_of, orders.begin_groups = self._group_of, self._begin
        return orders

    def begin(self, state: RunState) -> None:
        """See BufferedExchange."""
        decided = {group: place.turns for group, (_, place) in self._decided.items()}
        if self._desk is None:  # nobody's update is in a sum, but for those
            self._let_go(list(self._open))
            config = self._engine.config
            self._groups = Groups(config.group_size, sum_of_least(config), decided, self._ended)
            self.orders.renew()
        super().begin(state)
        needed = {order.round for order in self.machine.orders.values()} | {group[0] for group in decided}
        self._served = {round_: model for round_, model in self._served.items() if round_ in needed}
        self._served[state.round + 1] = state.served
        self._privacy = state.privacy  # after the newest sum
        self.look_at_learners()

    def _scale(self, opening: Opening) -> Scale:
        """See BufferedExchange: with room for sums as heavy as masks let them be, also of whoever is here no more."""
        scale, config = opening.scale, self._engine.config
        bounds = [one.plan.weight_bound for one in self._all]
        heaviest = max(weight_bound(config, opening.parts.values()), *bounds, 0)
        most = (config.buffer.size + config.group_size - 1) * heaviest
        return scale if most <= scale.max_weight else Scale.of(scale.max_abs, most)

    def _pick(self, idle: Sequence[str], count: int, given: int) -> Sequence[str]:
        """Of those that can still pay."""
        payable = self._engine.privacy.payable(dict.fromkeys(idle))
        return super()._pick(sorted(payable), min(count, len(payable)), given) if payable else ()

    # --- groups ----------------------------------------------------------------------------

    def _group_of(self, part: str) -> MaskedGroup:
        """The group of a part's open order."""
        group = self.machine.orders[part].key
        if group in self._decided:
            return self._decided[group][0]
        if group not in self._open:
            self._open[group] = self._made(group)
        return self._open[group]

    def _made(self, group: Group) -> MaskedGroup:
        engine, parts = self._engine, {part: self._parts[part] for part in self._members(group)}
        scale = Scale.of(engine.config.aggregate.max_abs, engine.orders.weight_bound(parts.values()))
        plan = plan_of(engine.config, Opening(self.machine.plan, parts, scale, len(parts)), 0, 0.0)
        release = self._release(group, plan)
        total = MaskedSum(engine.layout, plan, scale, release.noise, release.after)
        return MaskedGroup(engine, group[0], plan, total, release, self._file(group))

    def _release(self, group: Group, plan: leader_pb2.MaskPlan) -> MaskedRelease:
        began = replace(self.state, round=group[0] - 1)
        return self._engine.privacy.masked(self._engine.layout, began, plan, need(plan))

    def _file(self, group: Group) -> PendingFile:
        return PendingFile(self._engine.scratch and self._engine.scratch / _FILE.format(*group))

    def _read(self, folder: Path | None) -> None:
        """Go on with the sums of the open buffer that a leader before has written down."""
        engine = self._engine
        for path in sorted(folder.glob(_FILE.format("*", "*"))) if folder else ():
            if (name := _NAME.fullmatch(path.name)) is None:
                continue
            group = int(name[1]), int(name[2])
            file = PendingFile(path)
            pending = file.read(group[0])
            if pending is None or pending.place is None or pending.place.buffer != self.state.round + 1:
                file.remove()  # it has counted, or can't any more
                continue
            release, scale = (
                self._release(group, pending.closed.plan),
                Scale.of(engine.config.aggregate.max_abs, 1),
            )
            total = MaskedSum.restored(engine.layout, pending, scale, release.after)
            made = MaskedGroup(engine, group[0], pending.closed.plan, total, release, file)
            made.resume(pending)
            self._decided[group] = made, pending.place

    def _begin(self) -> None:
        """Have groups agree on masks that have not begun to."""
        for group, one in [(group, one) for group, one in self._open.items() if not one.session]:
            holders = super().holders()
            parts = (part for part in self._members(group) if part in holders)
            one.begin({self._name_of(holders[part]): self.orders.order(part) for part in parts})

    def _members(self, group: Group) -> list[str]:
        """The parts of a group."""
        return sorted(part for part, order in self.machine.orders.items() if order.key == group)

    def _name_of(self, learner_id: int) -> str:
        member = self._engine.workforce.get(learner_id)
        return member.name if member is not None else ""

    def _let_go(self, groups: Collection[Group]) -> None:
        for group in groups:
            self._notes.pop(group, None)
            self._open.pop(group).over()

    def holders(self) -> Mapping[str, int]:
        """See OpenExchange: of a group that has agreed on masks, those that have some; of the idle, those that can pay.

        Where none can, all: the round can't end by that before its deadline, as it may have a quorum.
        """
        held, orders = super().holders(), self.machine.orders
        may_work = self._engine.privacy.payable(held).keys() | orders.keys() or held.keys()
        return {part: id_ for part, id_ in held.items() if part in may_work and self._may_answer(part, id_)}

    def _may_answer(self, part: str, learner_id: int) -> bool:
        order = self.machine.orders.get(part)
        one = self._open.get(order.key) if order is not None else None
        return one is None or not one.ready or self._name_of(learner_id) in one.ready

    def _ended(self, group: Group) -> None:
        """The machine has given a group up: whoever was left out of it can work again."""
        one = self._open.get(group)
        if one is not None and one.ready and len(one.ready) < one.plan.parties:
            asyncio.get_running_loop().call_soon(self._engine.workforce.announce)

    # --- see ExchangeKind ------------------------------------------------------------------

    @property
    def _all(self) -> list[MaskedGroup]:
        return [*self._open.values(), *(one for one, _ in self._decided.values())]

    @property
    def deadline(self) -> float | None:
        """See ExchangeKind.deadline."""
        return min((one.deadline for one in self._all if one.deadline is not None), default=None)

    def tick(self) -> None:
        """See ExchangeKind.tick."""
        for one in self._all:
            one.tick()
        self.look_at_learners()

    def heard(self, member: Member, message: leader_pb2.MaskUp) -> None:
        """See ExchangeKind.masked."""
        for one in self._all:
            if one.session == message.session:
                one.heard(member, message)

    def returned(self, member: Member) -> None:
        """See ExchangeKind.returned."""
        for one in self._all:
            one.returned(member)

    def stop(self) -> None:
        """See ExchangeKind.stop."""
        for one in self._all:
            one.stop()

    def revive(self) -> RoundEvent | None:
        """See ExchangeKind.revive: of one group, whose work is masked anew where no masks would ever come off."""
        for group, one in self._open.items():
            if one.hopeless:
                one.restart()
                self._notes.pop(group, None)
                self._engine.workforce.announce()  # its session can begin, and other groups may be to revive
                return Remasked(group)
        return None

    def look_at_learners(self) -> None:
        """Who is here may have changed, and which groups there are."""
        registered = {member.name for member in self._engine.workforce}
        gone, self._registered = self._registered - registered, registered
        self._let_go(self._open.keys() - {order.key for order in self.machine.orders.values()})
        self._begin()
        for one in self._all:
            one.lost(gone)

    # --- their sums ------------------------------------------------------------------------

    def _sum_of(self, part: str) -> Aggregator:
        return self._group_of(part).sum

    async def add(
        self, admitted: Admitted, submission: Submission, counted: Callable[[], None]
    ) -> RoundEvent | None:
        """See OpenExchange: it counts once its group does."""
        part = admitted.part.id
        group = self.machine.orders[part].key
        notes = self._notes.setdefault(group, [])
        event = await super().add(admitted, submission, lambda: notes.append(counted))
        self._open[group].counted(part, submission.member.name)
        return event

    async def unmask(self, action: CloseGroup) -> RoundEvent:
        """See ExchangeKind.unmask: where that can't be, all of the group get other work."""
        group, parts = action.group, action.parts
        if group in self._decided:
            one, place = self._decided[group]
        else:
            turns = {part: order.turn for part, order in self.machine.orders.items() if part in parts}
            one, place = self._open[group], Place(buffer=self.machine.plan.round, turns=turns)
        reason = "" if place.unmasked else await self._reveal(one, place)
        if reason and one.stopped:
            return Reopen(())  # what is written down is unmasked when the run is resumed
        notes = self._notes.pop(group, [])
        self._decided.pop(group, None)
        self._open[group] = one
        self._let_go((group,))
        left_out, paid = len(one.ready) < len(self._members(group)), dict.fromkeys(parts)
        if left_out or len(self._engine.privacy.payable(paid)) < len(paid):
            self._engine.workforce.announce()  # who was left out of it can work again, who has spent all can't
        if reason:
            _log.warning("round %d: a group is given other work: %s", one.round, reason)
            one.file.remove()
            return Outdated(parts[0], place.turns[parts[0]])
        for note in notes:
            note()
        self._known += [] if notes else [self._parts.get(part) or Part(part, 0, None, 0) for part in parts]
        self._counted[group] = one, place.model_copy(update={"unmasked": True})
        faults.reach("leader.unmasked", self.machine.plan.round)
        await self._count(group, one)
        return Unmasked(group, parts)

    async def _reveal(self, one: MaskedGroup, place: Place) -> str:
        if one.round not in self._served:
            return f"the model of round {one.round} is not kept any more (keep_checkpoints)"
        return await one.unmask(self._engine.layout.gathered(self._served[one.round]), place)

    async def _count(self, group: Group, one: MaskedGroup) -> None:
        """The mean of an unmasked sum goes into the buffer, as so many updates as it is of."""
        result = await self._engine.host.compute(one.sum.finish)
        if one.sum.noise is None and one.sum.saturated:
            warn_of_saturation(one)
        self._privacy = result.privacy or self._privacy
        contribution = Contribution(
            "{}-{}".format(*group),
            result.examples,
            self._payload(result.mean),
            math.nan if self._engine.config.dp.on else result.loss,  # where nobody has told one
            updates=len(one.sum.parts),
        )
        await self._engine.fold(self.aggregate, self.orders.aged(contribution, one.round))

    def _payload(self, mean: Vector) -> Payload:
        """A mean as an update that came; noise may have taken a value beyond what one may say."""
        most = self._engine.config.aggregate.max_abs
        data = np.clip(mean, -most, most).view(np.uint8)
        tensors = ((entry.name, "F32", entry.shape) for entry in self._engine.layout.shared)
        return Payload(parse_header(encode_header(tensors)), data, zlib.crc32(data.data))

    async def close(self, step: int, parts: tuple[str, ...]) -> Closed:
        """See OpenExchange."""
        closed = await super().close(step, parts)
        self.state = replace(self.state, privacy=self._privacy)
        known, self._known = recalled(self._known, super().holders()), []
        return replace(closed, recalled=known)

    def end(self) -> OpenExchange | None:
        """See OpenExchange: what counted in a round that is given up counts in its next attempt."""
        if self.machine.phase is Phase.COMMITTED:
            for one, _ in self._counted.values():
                one.file.remove()
        else:
            self._decided |= self._counted
        self._counted, self._known = {}, []
        return super().end()
