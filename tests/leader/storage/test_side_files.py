"""What a large run says of its many parts lies beside its checkpoints, once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leader.state import FEW_PARTS, LayeredHistory, PartHistory, RunState, Seats
from leader.storage.checkpoint import load_checkpoint, load_newest, save_checkpoint
from leader.storage.saved_state import Beside
from leader.storage.side_files import SideFiles
from tests.leader.storage.test_checkpoint import assert_same, state
from utils.errors import CheckpointError

MANY = 2 * FEW_PARTS


def large(round_: int, history: LayeredHistory) -> RunState:
    """A state of many parts, of each of which round 1 has told."""
    shards = tuple(np.array([number, number + 1]) for number in range(MANY))
    seats = Seats(shards, {str(number): f"learner-{number}" for number in range(MANY)}, 2)
    return replace(state(round_), seats=seats, history=history, open_work={})


def settled() -> LayeredHistory:
    return LayeredHistory.of({f"part-{n}": PartHistory(1, 1, 0.1 * n, 1.0) for n in range(MANY)})


def rounds_of(folder: Path, *numbers: int) -> tuple[RunState, list[Path]]:
    """The last state of so many rounds, each telling of one part, and what lies beside them."""
    files, history, written = SideFiles(folder), settled(), state()
    seats = large(1, history).seats
    for number in numbers:
        history = history.with_round({f"part-{number}": PartHistory(2, number, 0.5, 1.0)})
        written = replace(large(number, history), seats=seats)
        save_checkpoint(folder, written, keep=2, config="", side_files=files)
    return written, sorted(folder.glob("beside-*"))


def test_many_parts_lie_beside_once_for_all_checkpoints_and_are_loaded_with_each(tmp_path: Path) -> None:
    last, beside = rounds_of(tmp_path, 5, 6, 7)
    sizes = {path.name: path.stat().st_size for path in tmp_path.glob("round-*")}
    assert [path.stat().st_mode & 0o077 for path in beside] == [0]
    assert max(sizes.values()) < 4000 < beside[0].stat().st_size
    loaded = load_newest(tmp_path)
    assert_same(loaded, last)
    assert (loaded.history["part-7"].times, loaded.history["part-8"].times) == (2, 1)


def test_another_process_writes_its_own_and_the_one_before_goes_when_no_checkpoint_needs_it(
    tmp_path: Path,
) -> None:
    _, [first] = rounds_of(tmp_path, 5, 6)
    files, history = SideFiles(tmp_path), load_newest(tmp_path).history
    for number, left in ((6, 2), (7, 1)):
        save_checkpoint(
            tmp_path, large(number, LayeredHistory.of(history)), keep=2, config="", side_files=files
        )
        assert len(list(tmp_path.glob("beside-*"))) == left
    assert not first.exists()
    assert load_newest(tmp_path).history == history


def test_a_run_that_becomes_small_leaves_nothing_beside(tmp_path: Path) -> None:
    files = SideFiles(tmp_path)
    for written in (large(5, settled()), replace(state(6), open_work={})):
        save_checkpoint(tmp_path, written, keep=1, config="", side_files=files)
    assert [path.name for path in tmp_path.iterdir()] == ["round-00000006.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_checkpoint_without_what_lies_beside_it_is_damaged(tmp_path: Path, damage: str) -> None:
    _, [beside] = rounds_of(tmp_path, 5)
    content = bytearray(beside.read_bytes())
    content[len(content) // 2] ^= 1
    beside.unlink() if damage == "missing" else beside.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"checkpoint round-00000005\.safetensors is damaged: .*beside-"
    ):
        load_checkpoint(tmp_path / "round-00000005.safetensors")


def test_a_large_checkpoint_of_an_earlier_release_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = large(5, LayeredHistory({}, dict(settled())))
    with monkeypatch.context() as earlier:
        earlier.setattr("leader.storage.saved_state.FEW_PARTS", MANY)
        path = save_checkpoint(tmp_path, before, keep=1, config="")
    assert b'"flockstep-checkpoint-2"' in path.read_bytes()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    assert_same(load_checkpoint(path), before)


def test_a_round_keeps_what_is_settled_and_settles_when_much_is_new() -> None:
    history, plain = settled(), dict(settled())
    first = history.settled
    for round_ in range(2, 300):
        told = {
            f"part-{round_ % 290}": PartHistory(2, round_, 0.5, 1.0),
            f"new-{round_}": PartHistory(1, round_, 0.5, 1.0),
        }
        before, history = history, history.with_round(told)
        assert before == plain
        plain |= told
        assert history == plain
        assert len(history) == len(plain)
        assert (history.settled is first) == (round_ < 130)
    assert len(history.recent) <= FEW_PARTS


def test_what_lies_beside_cannot_replace_what_the_checkpoint_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as forger:
        forger.setattr(Beside, "arrays", lambda beside: {"vector": np.ones(40, np.float32)})
        path = save_checkpoint(tmp_path, large(5, settled()), keep=1, config="")
    with pytest.raises(CheckpointError, match=r"beside it are the tensors \['vector'\]"):
        load_checkpoint(path)
