from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from leader.update_log.grid import BLOCK, Grid

GRIDS = st.builds(
    lambda parameters, buffers, partitions, together: Grid(
        parameters, parameters + buffers, partitions, together
    ),
    st.integers(1, 40 * BLOCK),
    st.integers(0, 3 * BLOCK),
    st.integers(1, 16),
    st.booleans(),
)


@given(GRIDS)
def test_blocks_cover_the_model_once_and_none_has_parameters_and_buffers(grid: Grid) -> None:
    starts, stops = zip(*grid.blocks, strict=True)
    assert (starts[0], stops[-1], starts[1:]) == (0, grid.values, stops[:-1])
    assert all(0 < stop - start <= BLOCK for start, stop in grid.blocks)
    assert grid.parameters in stops


@given(GRIDS, st.binary(min_size=16, max_size=16))
def test_the_partitions_of_an_update_have_each_block_once_and_equally_many(grid: Grid, uid: bytes) -> None:
    places = grid.places(uid)
    assert 0 <= places.start < places.stop <= grid.partitions
    numbers = [number for partition in places for number in grid.numbers(partition)]
    assert numbers == list(range(len(grid.blocks)))
    sizes = [len(grid.numbers(partition)) for partition in places]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_large_models_go_by_slice_and_small_ones_by_update() -> None:
    resnet = Grid(11_173_962, 11_183_562, 8)
    assert (len(resnet.blocks), resnet.slices, resnet.groups) == (87, 8, 1)
    small = Grid(60_000, 60_000, 8)
    assert (small.slices, small.groups) == (1, 8)
    together = Grid(60_000, 60_010, 8, together=True)
    assert (together.slices, together.groups) == (2, 1)
    assert Grid(300_000, 300_000, 8, together=True).groups == 1
    assert {small.places(bytes([0, 0, 0, n] + [0] * 12)).start for n in range(64)} == set(range(8))
