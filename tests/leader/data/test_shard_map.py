from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from leader.data.shard_map import ShardMap

#: (learner, joins): joins or leaves, then a rebalance where the third says so.
Changes = list[tuple[int, bool, bool]]
changes = st.lists(st.tuples(st.integers(1, 5), st.booleans(), st.booleans()), max_size=12)


def after(shards: int, steps: Changes) -> ShardMap:
    shard_map = ShardMap(shards)
    for learner, joins, rebalances in steps:
        if joins:
            shard_map.add(learner)
        else:
            shard_map.remove(learner)
        if rebalances:
            shard_map.rebalance()
    return shard_map


def holders(shard_map: ShardMap) -> list[int | None]:
    holders = shard_map.holders()
    return [holders.get(shard) for shard in range(shard_map.shards)]


def learners(steps: Changes) -> set[int]:
    here: set[int] = set()
    for learner, joins, _ in steps:
        (here.add if joins else here.discard)(learner)
    return here


@given(shards=st.integers(0, 40), steps=changes)
def test_rebalanced_shards_are_all_held_and_evenly(shards: int, steps: Changes) -> None:
    shard_map = after(shards, steps)
    shard_map.rebalance()
    here = learners(steps)
    counts = [len(shard_map.held_by(learner)) for learner in here]
    if here:
        assert sum(counts) == shards
        assert max(counts) - min(counts) <= 1
    for shard, holder in enumerate(holders(shard_map)):
        assert (holder in here) if here else (holder is None)
        assert holder is None or shard in shard_map.held_by(holder)


def fewest_moves(before: list[int | None], here: set[int]) -> int:
    """By trying every even assignment: the least number of held shards that get another holder."""
    fewest = len(before)
    for assignment in itertools.product(sorted(here), repeat=len(before)):
        counts = [assignment.count(learner) for learner in here]
        if max(counts) - min(counts) <= 1:
            moves = sum(old not in (None, new) for old, new in zip(before, assignment, strict=True))
            fewest = min(fewest, moves)
    return fewest


@given(
    shards=st.integers(0, 6),
    steps=st.lists(st.tuples(st.integers(1, 3), st.booleans(), st.booleans()), max_size=8),
)
def test_rebalance_moves_as_few_shards_as_possible(shards: int, steps: Changes) -> None:
    shard_map = after(shards, steps)
    before = holders(shard_map)
    shard_map.rebalance()
    moved = sum(old not in (None, new) for old, new in zip(before, holders(shard_map), strict=True))
    assert moved == (fewest_moves(before, learners(steps)) if learners(steps) else 0)


@given(shards=st.integers(0, 40), steps=changes)
def test_a_second_rebalance_changes_nothing(shards: int, steps: Changes) -> None:
    shard_map = after(shards, steps)
    shard_map.rebalance()
    before = holders(shard_map)
    shard_map.rebalance()
    assert holders(shard_map) == before


def test_the_order_of_joins_does_not_matter() -> None:
    maps = []
    for order in itertools.permutations([1, 2, 3]):
        shard_map = after(8, [(learner, True, False) for learner in order])
        shard_map.rebalance()
        maps.append(holders(shard_map))
    assert maps == [[1, 1, 1, 2, 2, 2, 3, 3]] * 6


def test_a_lost_learners_shards_go_to_those_who_have_fewest() -> None:
    shard_map = after(6, [(1, True, False), (2, True, False), (3, True, True)])
    shard_map.remove(2)
    assert holders(shard_map) == [1, 1, None, None, 3, 3]
    shard_map.rebalance()
    assert holders(shard_map) == [1, 1, 1, 3, 3, 3]
    shard_map.add(4)
    assert shard_map.held_by(4) == ()
    shard_map.rebalance()
    assert holders(shard_map) == [1, 1, 4, 3, 3, 4]


def test_a_learner_that_joins_again_keeps_its_shards() -> None:
    shard_map = after(4, [(1, True, False), (2, True, True), (1, True, True)])
    assert shard_map.held_by(1) == (0, 1)


def test_unknown_learners_hold_nothing_and_may_leave() -> None:
    shard_map = ShardMap(2)
    shard_map.remove(9)
    assert shard_map.held_by(9) == ()


@given(shards=st.integers(0, 20), steps=changes, more=changes)
def test_a_map_made_from_another_goes_on_as_that_one_would(
    shards: int, steps: Changes, more: Changes
) -> None:
    shard_map = after(shards, steps)
    shards_of = {learner: shard_map.held_by(learner)[::-1] for learner in learners(steps)}
    restored = ShardMap(shards, shards_of)
    for which in (shard_map, restored):
        for learner, joins, _ in more:
            (which.add if joins else which.remove)(learner)
        which.rebalance()
    assert holders(restored) == holders(shard_map)


@given(shards=st.integers(0, 20), steps=changes)
def test_orphans_are_shards_that_nobody_holds(shards: int, steps: Changes) -> None:
    shard_map = after(shards, steps)
    assert shard_map.orphans == (None in holders(shard_map))
