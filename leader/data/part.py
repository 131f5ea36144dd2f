"""A part: one piece of a round's work."""

from __future__ import annotations

from dataclasses import dataclass

from utils.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Part:
    """One piece of a round's work: a shard of the leader's data, or one learner's own data."""

    id: str
    examples: int
    shard: int | None  # None for a learner's own data
    seed: int

    @classmethod
    def of_shard(cls, shard: int, examples: int, run_seed: int) -> Part:
        """The part that is shard number `shard`; who trains it makes no difference to its bits."""
        return cls(cls.shard_id(shard), examples, shard, derive_seed(run_seed, "shard", shard))

    @classmethod
    def of_own(cls, name: str, examples: int, fingerprint: str, run_seed: int) -> Part:
        """The part that is the own data of the learner called `name`."""
        return cls(cls.own_id(name), examples, None, derive_seed(run_seed, "own", fingerprint or name))

    @staticmethod
    def shard_id(shard: int) -> str:
        """Id of the part that is shard number `shard`."""
        return f"shard-{shard:05d}"

    @staticmethod
    def own_id(name: str) -> str:
        """Id of the part that is the own data of the learner called `name`."""
        return f"own-{name}"
