"""The spool: rows come back as they were written, from a file that leaves nothing behind."""

from __future__ import annotations

import itertools
import os
import resource
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from leader.aggregation.spool import Spool
from model.layout import Entry
from tests.leader.aggregation.robust.array_rows import Matrix, normal
from tests.leader.aggregation.robust.updates import LAYOUT, PARAMETERS, TOTAL, payload
from utils.errors import CheckpointError

BUDGET = 1 << 20


def read(spool: Spool, members: list[int], start: int = 0, stop: int = TOTAL) -> Matrix:
    """These rows, put together again from copies of their tiles."""
    tiles = [(first, block.copy()) for first, block in spool.rows(members, start, stop).tiles()]
    assert [first for first, _ in tiles] == list(
        itertools.accumulate((block.shape[1] for _, block in tiles[:-1]), initial=0)
    )
    return np.concatenate([block for _, block in tiles], axis=1)


def same(read_back: NDArray[np.float32], written: NDArray[np.float32]) -> bool:
    return read_back.shape == written.shape and read_back.tobytes() == written.tobytes()


@given(
    order=st.permutations(LAYOUT.entries),
    budget=st.integers(1, 16 * 6 * TOTAL),
    members=st.lists(st.integers(0, 4), min_size=1, max_size=6),
    ends=st.tuples(st.integers(0, TOTAL), st.integers(0, TOTAL)).filter(lambda ends: ends[0] != ends[1]),
)
def test_any_part_of_any_rows_comes_back_in_tiles_of_any_width(
    order: list[Entry], budget: int, members: list[int], ends: tuple[int, int]
) -> None:
    updates = normal(5, TOTAL)
    start, stop = sorted(ends)
    with closing(Spool(LAYOUT, None, budget)) as spool:
        assert [spool.append(payload(update, tuple(order))) for update in updates] == [0, 1, 2, 3, 4]
        assert same(read(spool, members, start, stop), updates[members, start:stop])


@pytest.mark.parametrize("members", [1, 2, 3, 50])
def test_a_tile_takes_a_quarter_of_the_budget_whatever_the_number_of_rows(members: int) -> None:
    budget = 16 * 60
    with closing(Spool(LAYOUT, None, budget)) as spool:
        spool.append(payload(normal(1, TOTAL)[0]))
        widest = max(block.size for _, block in spool.rows([0] * members, 0, TOTAL).tiles())
    assert widest == members * min(TOTAL, 60 // members)


def test_chosen_rows_alone_are_read() -> None:
    updates = normal(5, TOTAL)
    with closing(Spool(LAYOUT, None, BUDGET)) as spool:
        for update in updates:
            spool.append(payload(update))
        rows = spool.rows([4, 2, 0], 1, TOTAL)
        assert (rows.n, rows.size) == (3, TOTAL - 1)
        ((start, block),) = rows.tiles([2, 1])
        assert start == 0
        assert same(block, updates[[0, 2], 1:])


def test_a_factor_scales_the_parameters_and_leaves_the_buffers() -> None:
    (update,) = normal(1, TOTAL)
    with closing(Spool(LAYOUT, None, BUDGET)) as spool:
        spool.append(payload(update), 0.3)
        (row,) = read(spool, [0])
    assert same(row[:PARAMETERS], (update[:PARAMETERS].astype(np.float64) * 0.3).astype(np.float32))
    assert same(row[PARAMETERS:], update[PARAMETERS:])


def test_a_row_without_buffers_does_not_disturb_its_neighbours() -> None:
    updates = normal(3, TOTAL)
    with closing(Spool(LAYOUT, None, BUDGET)) as spool:
        spool.append(payload(updates[0]))
        spool.append(payload(updates[1], LAYOUT.parameters))
        spool.append(payload(updates[2]))
        assert same(read(spool, [0, 1, 2], 0, PARAMETERS), updates[:, :PARAMETERS])
        assert same(read(spool, [0, 2]), updates[[0, 2]])


def test_the_folder_is_made_and_nothing_is_ever_seen_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "run" / "spool"
    spool = Spool(LAYOUT, folder, BUDGET)
    spool.append(payload(normal(1, TOTAL)[0]))
    assert list(folder.iterdir()) == []
    spool.close()
    spool.close()
    assert list(folder.iterdir()) == []


def test_a_folder_that_can_not_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        CheckpointError, match=r"can't keep updates in .*file/spool: Not a directory; free the disk"
    ):
        Spool(LAYOUT, tmp_path / "file" / "spool", BUDGET)


@contextmanager
def largest_file(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: what a full disk is like."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("room", range(0, 4 * TOTAL, 11))
def test_a_row_that_does_not_fit_on_the_disk_leaves_no_trace(room: int, tmp_path: Path) -> None:
    updates = normal(3, TOTAL)
    with closing(Spool(LAYOUT, tmp_path, BUDGET)) as spool:
        spool.append(payload(updates[0]))
        with (
            largest_file(4 * TOTAL + room),
            pytest.raises(CheckpointError, match=f"can't keep updates in {tmp_path}: .*then resume the run"),
        ):
            spool.append(payload(updates[1]))
        assert spool.count == 1
        assert os.fstat(spool._file.fileno()).st_size == 4 * TOTAL
        assert spool.append(payload(updates[2])) == 1
        assert same(read(spool, [0, 1]), updates[[0, 2]])


def test_a_spool_that_was_cut_short_is_told(tmp_path: Path) -> None:
    with closing(Spool(LAYOUT, tmp_path, BUDGET)) as spool:
        spool.append(payload(normal(1, TOTAL)[0]))
        os.truncate(spool._file.fileno(), 4 * TOTAL - 1)
        with pytest.raises(CheckpointError, match="was cut short"):
            read(spool, [0])
