"""The learners at work: registration, leases, and which learner holds which part."""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Collection, Mapping

import numpy as np
from numpy.typing import NDArray

from leader.aggregation.exact_sum import Scale
from leader.condition import Signal
from leader.config import RunConfig
from leader.config.requirement import Requirement
from leader.data.part import Part
from leader.data.partition import partition
from leader.data.shard_map import ShardMap
from leader.events import EventStream, LearnerJoined, LearnerLeft
from leader.learners.links import DialledLink, LearnerLink
from leader.learners.membership import CONTROL_NAMES, Member, Membership
from leader.state import Seats, Shards
from protos import leader_pb2
from utils.batches import held_out
from utils.errors import IncompatibleError, LimitError, NotReadyError

_log = logging.getLogger(__name__)
_ADDRESS = re.compile(r"([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}")


class Workforce:
    """Who is there and who holds what; tells `changed` and calls `on_change` when that moves."""

    def __init__(
        self,
        config: RunConfig,
        *,
        classes: int,
        labels: NDArray[np.int64] | None,
        seats: Seats | None,
        events: EventStream,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        self._config = config
        self._classes = classes  # 0 = a task of the user's own, which alone knows its data
        self._labels = labels  # None where the leader holds no data to deal out
        self._groups = groups  # None where the data has none
        self._events = events
        self.members = Membership(max_learners=config.limits.max_learners, lease_s=config.cohort.lease_s)
        self.changed = Signal()
        self.on_change: Callable[[], None] = lambda: None
        self._shards: Shards | None = None
        self._map = ShardMap(0)
        self._own_at_start = 0
        self._resumed = seats
        self._requirement = Requirement.parse(config.cohort.require)
        self._eligible: dict[int, Member] = {}  # those that meet it; the others only look on
        self._shard_parts: dict[str, Part] = {}
        self._own_parts: dict[int, Part] = {}  # of eligible members with own data
        self._even = False  # no rebalancing would move a shard
        # Asked several times a round, so made once after each change; None = not made yet.
        self._parts: Mapping[str, Part] | None = None
        self._holders: Mapping[str, int] | None = None
        self._seats: Seats | None = None

    def register(self, info: leader_pb2.LearnerInfo, peer: str) -> Member:
        """Take a learner in; raises IncompatibleError, NameTakenError, LimitError or PayloadError."""
        member, new = self.members.register(info, peer, time.monotonic(), self._check_data)
        if member.control != leader_pb2.CONTROL_SESSION and self._dialable(member):
            member.link.end()
            member.link = self._dialled(member)
            member.connected = True
        took_part = new or member.learner_id in self._eligible
        if not self._place(member) and took_part:
            _log.warning(
                "%s is left out, it does not meet cohort.require (%s): it said tags %s, device %s, %.1f GiB of memory",
                member.name,
                self._config.cohort.require,
                ",".join(sorted(member.tags)) or "none",
                member.device_kind or "unknown",
                member.memory_bytes / (1 << 30),
            )
        if self._shards and self._map.orphans:
            self._spread()
        if new:
            own = member.own_data.examples if member.own_data else None
            control = CONTROL_NAMES[member.control]
            self._events.publish(
                LearnerJoined(member.learner_id, member.name, member.device or control, control, own)
            )
        self._announce()
        return member

    def _place(self, member: Member) -> bool:
        """Let a registered learner take part if it meets cohort.require."""
        learner, own = member.learner_id, member.own_data
        eligible = self._requirement.met_by(member.tags, member.device_kind, member.memory_bytes)
        if eligible and own is None:
            self._map.add(learner)
        else:  # it may have been able to take a shard before
            self._map.remove(learner)
        self._eligible.pop(learner, None)
        self._own_parts.pop(learner, None)
        if eligible:
            self._eligible[learner] = member
        if eligible and own is not None:
            self._own_parts[learner] = Part.of_own(
                member.name, self._trained(own.examples), own.fingerprint, self._config.seed
            )
        self._moved()
        return eligible

    def _trained(self, examples: int) -> int:
        """How many of these are trained on; learners hold the others out."""
        return examples - held_out(examples, self._config.evaluation.holdout)

    def _moved(self) -> None:
        """Who is there or who holds what has changed."""
        self._even = False
        self._parts = self._holders = self._seats = None

    def _spread(self) -> None:
        """Give every shard a holder, evenly."""
        if not self._even:
            self._map.rebalance()
            self._moved()
            self._even = True

    def _check_data(self, info: leader_pb2.LearnerInfo) -> None:
        own = info.own_data if info.HasField("own_data") else None
        if own is None and self._labels is None:
            raise IncompatibleError(
                "this run's leader hands out no data (data.holder is learner); start the learner with --data DIR"
            )
        if own is not None and self._classes and own.classes != self._classes:
            raise IncompatibleError(
                f"your data has {own.classes} classes, this run's model {self._classes}; "
                "use the same classes everywhere (leader: model.classes)"
            )
        if own is not None:
            self._check_weight(info.name, own.examples)

    def _check_weight(self, name: str, examples: int) -> None:
        """Raise LimitError if no exact sum or no work order could hold so many more examples."""
        others = self.members.own_examples(without=name)
        held = 0 if self._labels is None else len(self._labels)
        Scale.of(self._config.aggregate.max_abs, held + others + examples)
        train = self._config.train
        if train.local_epochs * math.ceil(examples / train.batch_size) >= 1 << 32:
            raise LimitError(f"{examples} examples are more batches than one work order can ask for")

    def _dialable(self, member: Member) -> bool:
        return self._config.dial_learners and _ADDRESS.fullmatch(member.network_addr) is not None

    def _dialled(self, member: Member) -> DialledLink:
        return DialledLink(
            member.network_addr,
            work_timeout_s=self._config.cohort.deadline_s,
            heartbeat_s=None if member.plain else self._config.cohort.lease_s / 2,
            seen=lambda: self.members.touch(member, time.monotonic()),
            lost=lambda reason: self.leave(member, f"can't be dialled any more: {reason}"),
        )

    def attach(self, member: Member, link: LearnerLink) -> None:
        """The member's session is open: push to it through `link` from now on."""
        member.link.end()
        member.link = link
        member.connected = True
        self.members.touch(member, time.monotonic())
        self._announce()

    def detach(self, member: Member, link: LearnerLink) -> None:
        """The member's session broke; its lease goes on, so that it can come back."""
        if member.link is link:
            member.connected = False
            self._announce()

    def leave(self, member: Member, reason: str) -> None:
        """The member is gone; the parts that it held go to others."""
        if not self.members.remove(member):
            return
        member.link.end()
        self._moved()
        self._own_parts.pop(member.learner_id, None)
        if self._eligible.pop(member.learner_id, None) is not None and member.own_data is None:
            self._map.remove(member.learner_id)
            self._spread()
        self._events.publish(LearnerLeft(member.learner_id, member.name, reason))
        self._announce()

    def drop_silent(self, owing: Collection[int]) -> None:
        """Let go of plain learners among `owing`: they have no lease, and the deadline has passed."""
        for member in list(self.members):
            if member.plain and member.learner_id in owing:
                self.leave(member, "sent no update until the deadline")

    def renew(self) -> None:
        """Begin every lease anew."""
        for member in self.members:
            self.members.touch(member, time.monotonic())

    def expire(self) -> None:
        """Let go of every member whose lease has run out."""
        for member in self.members.expired(time.monotonic()):
            self.leave(member, f"no sign of life for {self._config.cohort.lease_s:g} s")

    def _announce(self) -> None:
        self.changed.notify()
        self.on_change()

    def deal(self) -> None:
        """Before the first round: split the leader's data among the learners that bring none.

        A resumed run keeps its shards, and each learner that came back keeps those it had.
        """
        if self._shards is not None:
            return
        takers = [member for member in self._eligible.values() if member.own_data is None]
        self._own_at_start = len(self._own_parts)
        if self._resumed is not None:
            self._own_at_start = self._resumed.own
            self._adopt(self._resumed.shards, takers, self._resumed.holders)
        elif self._labels is None or (self._own_parts and not takers):
            self._adopt((), takers, {})
        else:
            data = self._config.data
            # By the learners waited for, not by those that happen to be here: the same split each time.
            parts = data.shards or max(1, self._config.learners - self._own_at_start)
            shards = partition(
                self._labels,
                data.shards if data.partition == "groups" else parts,
                kind=data.partition,
                alpha=data.alpha,
                seed=self._config.seed,
                classes_per_shard=data.classes_per_shard,
                groups=self._groups,
            )
            self._adopt(shards, takers, {})

    def _adopt(self, shards: Shards, takers: list[Member], holders: Mapping[str, str]) -> None:
        held: dict[int, tuple[int, ...]] = {
            member.learner_id: tuple(int(shard) for shard, name in holders.items() if name == member.name)
            for member in takers
        }
        seed = self._config.seed
        parts = [Part.of_shard(i, self._trained(len(indices)), seed) for i, indices in enumerate(shards)]
        self._shards = shards
        self._shard_parts = {part.id: part for part in parts}
        self._map = ShardMap(len(shards), held)
        self._moved()
        self._spread()
        self._announce()

    def rebalance(self) -> None:
        """Between rounds: spread the shards evenly again, with as few moves as possible."""
        self._spread()
        self._announce()

    @property
    def dealt(self) -> bool:
        """Whether the data has been dealt out."""
        return self._shards is not None

    def seats(self) -> Seats | None:
        """The deal as it stands, by learners' names; None before the data is dealt."""
        if self._shards is None:
            return None
        if self._seats is None:
            held = self._map.holders().items()
            holders = {str(shard): self._eligible[learner].name for shard, learner in held}
            self._seats = Seats(self._shards, holders, self._own_at_start)
        return self._seats

    def shard_of(self, member: Member, shard: int | None) -> NDArray[np.int64]:
        """Example indices of a shard that `member` may fetch; its first one where none is named."""
        if self._shards is None:
            raise NotReadyError("the data is dealt out when enough learners are here; try again")
        held = self._map.held_by(member.learner_id)
        if shard is None and held:
            return self._shards[held[0]]
        if shard is None or shard not in held:
            raise NotReadyError(f"{member.name} does not hold shard {shard}; wait for a work order")
        return self._shards[shard]

    def parts(self) -> Mapping[str, Part]:
        """All the work there is at present, by part id."""
        if self._parts is None:
            self._parts = self._shard_parts | {part.id: part for part in self._own_parts.values()}
        return self._parts

    def holders(self) -> Mapping[str, int]:
        """Which learner does which part; parts that nobody can do are left out."""
        if self._holders is None:
            ids = list(self._shard_parts)
            held = {ids[shard]: learner for shard, learner in self._map.holders().items()}
            self._holders = held | {part.id: learner for learner, part in self._own_parts.items()}
        return self._holders

    def eligible(self) -> int:
        """How many of the learners meet cohort.require."""
        return len(self._eligible)

    def enough(self) -> bool:
        """Whether a further round can begin with the learners that are here.

        Somebody must be able to do the leader's shards, and of the learners with own data a
        quorum of those that were there at the start must be here.
        """
        own = len(self._own_parts)
        if self._shards and own == len(self._eligible):
            return False
        return len(self.holders()) > 0 and own >= math.ceil(self._config.cohort.quorum * self._own_at_start)
