from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from leader.evaluation.federated import FederatedScores
from leader.events import RoundCommitted, Spread
from leader.rounds.buffer import OpenWork
from leader.state import Claim, PartHistory, PrivacyState, RunState, Seats
from leader.storage.checkpoint import checkpoints, load_checkpoint, load_newest, save_checkpoint
from leader.storage.saved_state import fields_of, state_of
from leader.trust.audit.chain import Head
from leader.trust.audit.check import kept_heads
from protos import leader_pb2
from utils.errors import CheckpointError
from utils.files import write_atomically

CONFIG = '{"rounds": 9}'
#: A file may grow to 4000 bytes; then writing fails as it does on a full disk.
FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from leader.storage.checkpoint import write_atomically
from utils.errors import CheckpointError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
try:
    write_atomically(Path(sys.argv[1]), [b"new", memoryview(bytes(9000))])
except CheckpointError as error:
    print(error)
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from leader.storage.checkpoint import write_atomically
write_atomically(Path(sys.argv[1]), [b"new", b"er"], lambda: os.kill(os.getpid(), signal.SIGKILL))
"""


def spreads(value: float) -> dict[str, Spread]:
    scores = FederatedScores()
    scores.add("own-b", (leader_pb2.Metric(name="accuracy", value=value, examples=3),))
    return scores.spreads()


def state(round_: int = 5, seed: int = 0) -> RunState:
    generator = np.random.Generator(np.random.PCG64(seed + round_))
    return RunState(
        run_id="run-7",
        round=round_,
        exchanges=3 * round_,
        version=(1 << 62) + round_,
        vector=generator.normal(size=40).astype(np.float32),
        optimizer={"velocity": generator.normal(size=30).astype(np.float32)},
        seats=Seats(
            (np.array([1, 4, 6]), np.array([0, 2])),
            {"0": "plain-\N{DOG FACE}", "1": "b"},
            2,
            {"plain-\N{DOG FACE}": Claim("", "1.1.1.1"), "b": Claim("ff", "::1")},
        ),
        bytes_up=1 << 40,
        bytes_down=7,
        seconds=12.5,
        federated=spreads(0.1 + 0.2),
        committed=RoundCommitted(round_, 0.1 + 0.2, 2.5, 10, 20, 2, 640, 0.05),
        history={
            "shard-00000": PartHistory(3, round_, 0.1 + 0.2, 1e-9),
            "own-b": PartHistory(1, 1, -7.5, 0.0),
        },
        open_work={
            "shard-00001": OpenWork(round_ - 1, 17, (1 << 62) + 4),
            "own-b": OpenWork(round_, 2, (1 << 62) + 5),
        },
        turns={"shard-00001": 18, "own-b": 3, "own-gone": 1},
        secret="5ec2e7",
    )


def assert_same(loaded: RunState, expected: RunState) -> None:
    assert loaded.vector.dtype == np.float32
    assert loaded.vector.tobytes() == expected.vector.tobytes()
    assert {name: v.tobytes() for name, v in loaded.optimizer.items()} == {
        name: v.tobytes() for name, v in expected.optimizer.items()
    }
    assert (loaded.seats is None) == (expected.seats is None)
    if loaded.seats is not None and expected.seats is not None:
        assert [shard.tolist() for shard in loaded.seats.shards] == [
            s.tolist() for s in expected.seats.shards
        ]
        assert [shard.dtype for shard in loaded.seats.shards] == [np.int64] * len(expected.seats.shards)
        assert (loaded.seats.holders, loaded.seats.own) == (expected.seats.holders, expected.seats.own)
        assert loaded.seats.claims == expected.seats.claims
    nothing = np.zeros(0, np.float32)
    assert replace(loaded, vector=nothing, optimizer={}, seats=None) == replace(
        expected, vector=nothing, optimizer={}, seats=None
    )


def save(folder: Path, *rounds: int, keep: int = 3, **changed: Any) -> list[Path]:
    states = [replace(state(number), **changed) for number in rounds]
    return [save_checkpoint(folder, one, keep=keep, config=CONFIG) for one in states]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 5)
    assert path.name == "round-00000005.safetensors"
    assert_same(load_checkpoint(path), state())


@pytest.mark.parametrize(
    "changes",
    [
        {"seats": None, "committed": None},
        {"optimizer": {}},
        {"seats": Seats((), {}, 3)},
        {"seats": Seats((np.array([], np.int64), np.array([3]), np.array([], np.int64)), {}, 0)},
        {"open_work": {}, "turns": {}},
    ],
)
def test_a_state_without_shards_or_optimizer_state_is_loaded(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    sparse = replace(state(), **changes)  # type: ignore[arg-type]
    assert_same(load_checkpoint(save_checkpoint(tmp_path, sparse, keep=1, config=CONFIG)), sparse)


def test_a_checkpoint_keeps_the_head_of_the_audit_where_there_is_one(tmp_path: Path) -> None:
    plain, secure = state(), replace(state(6), audit_head=f"7:{'ab' * 32}")
    paths = [save_checkpoint(tmp_path, written, keep=3, config=CONFIG) for written in (plain, secure)]
    assert [load_checkpoint(path).audit_head for path in paths] == ["", f"7:{'ab' * 32}"]
    assert [b"audit" in path.read_bytes() for path in paths] == [False, True]
    assert kept_heads(paths[1]) == [Head(7, b"\xab" * 32)]


def test_checkpoints_are_their_owners_alone_as_the_secret_of_the_run_is_in_them(tmp_path: Path) -> None:
    """By it tickets of edges, records of the log and work ids are made."""
    written = replace(state(), secret="5e" * 16)
    path = save_checkpoint(tmp_path, written, keep=3, config=CONFIG)
    assert ("5e" * 16).encode() in path.read_bytes()
    assert {one.name for one in tmp_path.iterdir() if one.stat().st_mode & 0o077} == set()


def test_a_private_run_keeps_its_key_and_what_the_ledger_says(tmp_path: Path) -> None:
    kept = PrivacyState(bytes(range(32)), 0.75, 7, "ab" * 32, 0.1 + 0.2, 8.0)
    paths = [
        save_checkpoint(tmp_path, written, keep=3, config=CONFIG)
        for written in (state(), replace(state(6), privacy=kept))
    ]
    assert [load_checkpoint(path).privacy for path in paths] == [None, kept]
    assert [b"noise_key" in path.read_bytes() for path in paths] == [False, True]
    assert bytes(range(32)).hex() not in repr(kept)


def test_the_order_of_parts_makes_no_difference(tmp_path: Path) -> None:
    turned = replace(
        state(),
        history=dict(reversed(list(state().history.items()))),
        open_work=dict(reversed(list(state().open_work.items()))),
        turns=dict(reversed(list(state().turns.items()))),
    )
    assert list(turned.history) != list(state().history)
    (path,) = save(tmp_path, 5)
    first = path.read_bytes()
    assert save_checkpoint(tmp_path, turned, keep=1, config=CONFIG).read_bytes() == first


def test_a_part_that_told_no_loss_is_kept(tmp_path: Path) -> None:
    silent = replace(state(), history={"own-a": PartHistory(2, 4, math.nan, 3.0)})
    past = load_checkpoint(save_checkpoint(tmp_path, silent, keep=1, config=CONFIG)).history["own-a"]
    assert math.isnan(past.loss)
    assert replace(past, loss=0.0) == PartHistory(2, 4, 0.0, 3.0)


def test_a_checkpoint_of_a_release_without_history_is_loaded() -> None:
    fields = json.loads(fields_of(replace(state(), seats=None)))
    for name in ("history", "open_work", "turns"):
        del fields[name]
    loaded = state_of(json.dumps(fields), {"vector": state().vector})
    assert (loaded.history, loaded.open_work, loaded.turns) == ({}, {}, {})
    assert loaded.round == 5


def test_the_safetensors_library_reads_a_checkpoint(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 5)
    arrays = safetensors.numpy.load_file(path)
    assert set(arrays) == {"vector", "optimizer.velocity", "shards", "shard_sizes"}
    assert arrays["shards"].tolist() == [1, 4, 6, 0, 2]
    assert arrays["shard_sizes"].tolist() == [3, 2]
    assert arrays["shards"].dtype == arrays["shard_sizes"].dtype == np.int32
    assert arrays["vector"].tobytes() == state().vector.tobytes()


def test_the_newest_checkpoints_are_kept(tmp_path: Path) -> None:
    save(tmp_path, 1, 2, 3, 4, 12, keep=3)
    expected = [f"round-{number:08d}.safetensors" for number in (12, 4, 3)]
    assert [path.name for path in checkpoints(tmp_path)] == expected
    assert_same(load_newest(tmp_path), state(12))


def test_a_round_that_is_written_again_replaces_its_file(tmp_path: Path) -> None:
    save(tmp_path, 5)
    again = state(5, seed=9)
    save_checkpoint(tmp_path, again, keep=3, config=CONFIG)
    assert_same(load_newest(tmp_path), again)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    others = ("round-1.safetensors", "round-00000009.safetensors.partial", "notes.txt")
    for name in others:
        (tmp_path / name).write_text("mine")
    save(tmp_path, 1, 2, keep=1, open_work={})
    assert names(tmp_path) == sorted([*others, "round-00000002.safetensors"])
    assert_same(load_newest(tmp_path), replace(state(2), open_work={}))


def test_checkpoints_stay_whose_model_open_work_starts_from(tmp_path: Path) -> None:
    work = {"a": OpenWork(2, 0, 7), "b": OpenWork(5, 1, 7)}
    save(tmp_path, 1, 2, 3, 4, 5, keep=2, open_work=work)
    assert [path.name[6:14] for path in checkpoints(tmp_path)] == ["00000005", "00000004", "00000001"]
    save(tmp_path, 6, keep=2, open_work={})
    assert [path.name[6:14] for path in checkpoints(tmp_path)] == ["00000006", "00000005"]


# --- crashes and full disks ----------------------------------------------------------------


def test_a_leader_killed_while_it_writes_finds_the_checkpoint_before(tmp_path: Path) -> None:
    save(tmp_path, 4)
    path = tmp_path / "round-00000005.safetensors"
    killed = subprocess.run([sys.executable, "-c", KILLED, str(path)], check=False)
    assert killed.returncode == -9
    assert names(tmp_path) == ["round-00000004.safetensors", "round-00000005.safetensors.partial"]
    assert_same(load_newest(tmp_path), state(4))
    save(tmp_path, 5)
    assert names(tmp_path) == ["round-00000004.safetensors", "round-00000005.safetensors"]
    assert_same(load_newest(tmp_path), state(5))


def test_a_full_disk_is_an_error_that_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "round-00000001.safetensors"
    path.write_bytes(b"old")
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], check=True, capture_output=True, text=True
    )
    assert (
        run.stdout
        == f"can't write {path}: File too large; free the disk or fix the folder, then resume the run\n"
    )
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("folder", "reason"), [("missing", "No such file or directory"), ("file", "Not a directory")]
)
def test_a_folder_that_cannot_be_written_to_is_an_error(tmp_path: Path, folder: str, reason: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=reason):
        write_atomically(tmp_path / folder / "x", [b"new"])


# --- damage --------------------------------------------------------------------------------


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    _, old, new, newest = save(tmp_path, 1, 2, 3, 4)
    newest.write_bytes(newest.read_bytes()[:-1])
    new.write_bytes(b"")
    assert_same(load_newest(tmp_path), state(2))
    old.unlink()
    with pytest.raises(
        CheckpointError, match=r"only damaged ones: round-00000004.safetensors, round-00000003.safetensors"
    ):
        load_newest(tmp_path)


def test_damaged_checkpoints_of_later_rounds_do_not_push_out_a_good_one(tmp_path: Path) -> None:
    _, old, new, newest = save(tmp_path, 1, 2, 3, 4)
    new.write_bytes(b"")
    newest.write_bytes(b"")
    save(tmp_path, 2, keep=1, open_work={})
    assert checkpoints(tmp_path) == [newest, new, old]
    save(tmp_path, 3, keep=1, open_work={})
    assert checkpoints(tmp_path) == [newest, new]
    assert_same(load_newest(tmp_path), replace(state(3), open_work={}))


def test_a_folder_without_checkpoints_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"no checkpoint to resume from in .* \(none\); start a new run"
    ):
        load_newest(tmp_path)


def test_a_flipped_bit_in_any_byte_is_found(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 5)
    sound = path.read_bytes()
    damaged = tmp_path / "damaged"
    for position in range(len(sound)):
        flipped = bytearray(sound)
        flipped[position] ^= 1 << position % 8
        damaged.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            load_checkpoint(damaged)


def test_a_checkpoint_cut_anywhere_is_found(tmp_path: Path) -> None:
    (path,) = save(tmp_path, 5)
    sound = path.read_bytes()
    for length in range(0, len(sound), 7):
        path.write_bytes(sound[:length])
        with pytest.raises(CheckpointError):
            load_checkpoint(path)


def test_a_safetensors_file_of_something_else_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "round-00000001.safetensors"
    safetensors.numpy.save_file({"vector": np.zeros(3, np.float32)}, path)
    with pytest.raises(CheckpointError, match="is not a checkpoint of this release"):
        load_checkpoint(path)
