from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from utils.seeds import derive_seed

paths = st.lists(st.text("abc-3", max_size=3) | st.integers(0, 30), max_size=3)


def test_seeds_are_the_same_on_every_machine() -> None:
    assert derive_seed(0, "shard", 3) == 5_939_745_091_124_030_754
    assert derive_seed(7) == 8_333_924_190_356_522_945


@given(st.integers(0, 2**63 - 1), paths)
def test_a_seed_has_63_bits(seed: int, path: list[str | int]) -> None:
    assert 0 <= derive_seed(seed, *path) < 2**63


@given(st.integers(0, 3), paths, st.integers(0, 3), paths)
def test_other_seeds_and_paths_give_other_seeds(
    seed: int, path: list[str | int], other: int, other_path: list[str | int]
) -> None:
    same = (seed, [str(part) for part in path]) == (other, [str(part) for part in other_path])
    assert (derive_seed(seed, *path) == derive_seed(other, *other_path)) == same
