"""Which learner holds which shard of the leader's data."""

from __future__ import annotations

from collections.abc import Mapping


class ShardMap:
    """Shards 0..shards-1 and the learners that hold them; changes only when told to.

    >>> shards = ShardMap(4)
    >>> shards.add(1), shards.add(2), shards.rebalance()
    (None, None, None)
    >>> shards.held_by(1), shards.held_by(2)
    ((0, 1), (2, 3))
    """

    def __init__(self, shards: int, held: Mapping[int, tuple[int, ...]] | None = None) -> None:
        self.shards = shards
        #: learner to its shards, ascending
        self._held = {learner: tuple(sorted(owned)) for learner, owned in (held or {}).items()}

    def add(self, learner_id: int) -> None:
        """A learner joins, holding nothing yet; one that is here already keeps its shards."""
        self._held.setdefault(learner_id, ())

    def remove(self, learner_id: int) -> None:
        """A learner leaves; nobody holds its shards until the next `rebalance`."""
        self._held.pop(learner_id, None)

    def rebalance(self) -> None:
        """Give every shard a holder so that counts differ by at most 1, moving as few shards as possible.

        The result depends on who holds what, not on the order of joins. Without learners nothing is held.
        """
        quotas = self._quotas()
        kept = {learner: self._held[learner][:quota] for learner, quota in quotas.items()}
        taken = {shard for shards in kept.values() for shard in shards}
        free = iter(shard for shard in range(self.shards) if shard not in taken)
        for learner, quota in quotas.items():
            gained = [next(free) for _ in range(quota - len(kept[learner]))]
            self._held[learner] = tuple(sorted((*kept[learner], *gained)))

    def _quotas(self) -> dict[int, int]:
        """How many shards each learner is to hold, by ascending id.

        Where the division leaves a rest, the larger quotas go to those who hold most: that moves least.
        """
        if not self._held:
            return {}
        size, larger = divmod(self.shards, len(self._held))
        by_holding = sorted(self._held, key=lambda learner: (-len(self._held[learner]), learner))
        favoured = set(by_holding[:larger])
        return {learner: size + (learner in favoured) for learner in sorted(self._held)}

    @property
    def orphans(self) -> bool:
        """Whether some shard has no holder."""
        return sum(len(owned) for owned in self._held.values()) < self.shards

    def holders(self) -> dict[int, int]:
        """The learner that holds each shard; shards that nobody holds are left out."""
        return {shard: learner for learner, shards in self._held.items() for shard in shards}

    def held_by(self, learner_id: int) -> tuple[int, ...]:
        """The shards of a learner, ascending; empty for one that isn't here."""
        return self._held.get(learner_id, ())
