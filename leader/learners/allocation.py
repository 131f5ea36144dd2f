"""The allocation: which parts of the training data there are, and which learner does which."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Set

import numpy as np
from numpy.typing import NDArray

from leader.config import RunConfig
from leader.config.rules.aggregate import least_updates
from leader.data.part import Part
from leader.data.partition import partition
from leader.data.shard_map import ShardMap
from leader.learners.membership import Member
from leader.state import Seats, Shards
from utils.batches import held_out
from utils.errors import NotReadyError


class Allocation:
    """Deals the leader's data out to the learners that bring none; those that bring some do their own part."""

    def __init__(
        self,
        config: RunConfig,
        *,
        labels: NDArray[np.int64] | None,
        groups: NDArray[np.int64] | None,
        resumed: Seats | None,
        rank: Callable[[Member], int] = lambda member: 0,
        noted: Callable[[], Set[int] | None] = lambda: None,
    ) -> None:
        self._config = config
        self._rank = rank  # whose turn it is: those of the lowest
        self._noted = noted  # the only learners whose rank may be other than 0; None = all
        self.spent: Callable[[], Set[str]] = frozenset  # parts that can't be in a further round
        self._behind: frozenset[int] = frozenset()  # eligible, and given no work as others come first
        self._labels = labels  # None where the leader holds no data to deal out
        self._groups = groups  # None where the data has none
        self._resumed = resumed  # the deal of a run that goes on
        self._shards: Shards | None = None
        self._map = ShardMap(0)
        self._own_at_start = 0
        self._eligible: dict[int, Member] = {}  # the others only look on
        self._shard_parts: dict[str, Part] = {}
        self._own_parts: dict[int, Part] = {}  # of eligible members with own data
        self._even = False  # no rebalancing would move a shard
        # Asked several times a round, so made once after each change; None = not made yet.
        self._parts: Mapping[str, Part] | None = None
        self._available: Mapping[str, Part] | None = None
        self._examples: int | None = None
        self._holders: Mapping[str, int] | None = None
        self._seats: Seats | None = None

    def __contains__(self, member: Member) -> bool:
        return member.learner_id in self._eligible

    def __len__(self) -> int:
        """How many learners may do work."""
        return len(self._eligible)

    def place(self, member: Member, *, eligible: bool) -> None:
        """A member has come, or come back, perhaps with other data; shards without a holder find one."""
        learner, own = member.learner_id, member.own_data
        self._behind -= {learner}
        if eligible and own is None:
            self._map.add(learner)
        else:  # it may have been able to take a shard before
            self._map.remove(learner)
        self._eligible.pop(learner, None)
        self._own_parts.pop(learner, None)
        if eligible:
            self._eligible[learner] = member
        if eligible and own is not None:
            examples, seed = self._trained(own.examples), self._config.seed
            self._own_parts[learner] = Part.of_own(member.name, examples, own.fingerprint, seed)
        self._moved()
        self.review()

    def review(self) -> bool:
        """Who comes first may have changed: whether shards found another holder for that."""
        if not self._shards or not (self._map.orphans or self._only_behind() or self._held_behind()):
            return False
        self.spread()
        return True

    def remove(self, member: Member) -> None:
        """A member is gone; the shards that it held go to others."""
        self._moved()
        self._behind -= {member.learner_id}
        self._own_parts.pop(member.learner_id, None)
        if self._eligible.pop(member.learner_id, None) is None:
            return
        self._map.remove(member.learner_id)
        if self._map.orphans or self._only_behind():
            self.spread()

    def _held_behind(self) -> bool:
        """Whether somebody holds a shard that is behind others; a look at the holders is enough where none is."""
        holders = {*self._map.holders().values()}
        return bool(self._ranks(holders)) and not holders.isdisjoint(self._find_behind())

    def _only_behind(self) -> bool:
        """Whether of those with data of their own only such are left that stand behind: it is their turn."""
        return bool(self._own_parts) and self._own_parts.keys() <= self._behind

    def spread(self) -> None:
        """Give every shard a holder, evenly, with as few moves as possible."""
        if (behind := self._find_behind()) != self._behind:
            self._behind = behind
            self._moved()
            for member in self._sharing():
                if member.learner_id in behind:
                    self._map.remove(member.learner_id)
                else:
                    self._map.add(member.learner_id)
        if not self._even:
            self._map.rebalance()
            self._moved()
            self._even = True

    def _sharing(self) -> list[Member]:
        """Eligible members that bring no data."""
        return [member for member in self._eligible.values() if member.own_data is None]

    def _find_behind(self) -> frozenset[int]:
        """Eligible members that get no work now: others can do it, or a round can be made without theirs."""
        if not (ranks := self._ranks(self._eligible.keys())):
            return frozenset()
        own = {learner: ranks.pop(learner) for learner in ranks.keys() & self._own_parts}
        first = _least_of(ranks, len(self._eligible) - len(self._own_parts))
        first_own = _least_of(own, len(self._own_parts))
        behind = {learner for learner, rank in ranks.items() if rank > first}
        # Nobody else has the data of those that were here before: strangers did nothing wrong by that.
        without = {learner for learner, rank in own.items() if rank > max(1, first_own)}
        others = {part.id for learner, part in self._own_parts.items() if learner not in without}
        left = len((self._shard_parts.keys() | others) - self.spent())
        return frozenset(behind | without if left >= self._least() else behind)

    def _ranks(self, learners: Set[int]) -> dict[int, int]:
        """Of those of these eligible ones that have another rank than 0."""
        noted = self._noted()
        looked_at = learners if noted is None else learners & noted
        return {learner: rank for learner in looked_at if (rank := self._rank(self._eligible[learner]))}

    def _least(self) -> int:
        """Fewest parts that a round can be made of."""
        aggregate, secagg = self._config.aggregate, self._config.secagg
        masked = secagg.least if secagg.mode != "off" else 0
        return max(masked, least_updates(aggregate.rule, aggregate.byzantine))

    def _moved(self) -> None:
        """Who is there or who holds what has changed."""
        self._even = False
        self._parts = self._available = self._examples = self._holders = self._seats = None

    def _trained(self, examples: int) -> int:
        """How many of these are trained on; learners hold the others out."""
        return examples - held_out(examples, self._config.evaluation.holdout)

    def deal(self) -> None:
        """Before the first round: split the leader's data among the learners that bring none.

        A resumed run keeps its shards, and each learner that came back keeps those it had.
        """
        takers = self._sharing()
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
        by_name: dict[str, list[int]] = {}
        for shard, name in holders.items():
            by_name.setdefault(name, []).append(int(shard))
        held = {member.learner_id: tuple(by_name.get(member.name, ())) for member in takers}
        seed = self._config.seed
        parts = [Part.of_shard(i, self._trained(len(indices)), seed) for i, indices in enumerate(shards)]
        self._shards = shards
        self._shard_parts = {part.id: part for part in parts}
        self._map = ShardMap(len(shards), held)
        self._behind = frozenset()
        self._moved()
        self.spread()

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
        """Which learner does which part; parts that nobody can do, or is to do now, are left out."""
        if self._holders is None:
            ids = list(self._shard_parts)
            held = {ids[shard]: learner for shard, learner in self._map.holders().items()}
            own = {
                part.id: learner for learner, part in self._own_parts.items() if learner not in self._behind
            }
            self._holders = held | own
        return self._holders

    def available(self) -> Mapping[str, Part]:
        """The parts that somebody is to do."""
        if self._available is None:
            holders = self.holders()
            self._available = {part: what for part, what in self.parts().items() if part in holders}
        return self._available

    def examples(self) -> int:
        """Of all parts together."""
        if self._examples is None:
            self._examples = sum(part.examples for part in self.parts().values())
        return self._examples

    def enough(self) -> bool:
        """Whether a further round can begin with the learners that are here.

        Somebody must be able to do the leader's shards, and of the learners with own data a
        quorum of those that were there at the start must be here.
        """
        own = len(self._own_parts)
        if self._shards and own == len(self._eligible):
            return False
        return len(self.holders()) > 0 and own >= math.ceil(self._config.cohort.quorum * self._own_at_start)


def _least_of(ranks: Mapping[int, int], learners: int) -> int:
    """The lowest rank of so many learners, of whom those that are not among `ranks` have 0."""
    return min(ranks.values(), default=0) if len(ranks) == learners else 0
