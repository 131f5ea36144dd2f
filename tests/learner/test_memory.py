from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from learner.memory import Memory, alone_in
from utils.errors import ConfigError


def vectors(value: float) -> dict[str, NDArray[np.float32]]:
    return {"control": np.full(3, value, np.float32), "local": np.full(2, -value, np.float32)}


def memory(folder: Path | None = None, run: str = "run-1") -> Memory:
    made = Memory(folder)
    made.begin(run)
    return made


def value(these: Memory, part: str = "own", round_: int = 1) -> float | None:
    """What `vectors` made the memory of; None for an empty one."""
    kept = these.of(part, round_)
    if not kept:
        return None
    assert kept["control"].tolist() == [kept["control"][0]] * 3
    assert kept["local"].tolist() == [-kept["control"][0]] * 2
    return float(kept["control"][0])


@pytest.fixture(params=["in memory", "on disk"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path | None:
    """A place for the memory, or none."""
    return tmp_path / "state" if request.param == "on disk" else None


def test_an_update_must_count_and_be_committed_to_be_remembered(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 1, vectors(1))
    assert value(kept) is None
    kept.counted("own")
    assert value(kept) is None
    kept.committed(1)
    assert value(kept) == 1
    kept.stage("own", 2, vectors(2))
    kept.committed(2)  # the round was closed without it, as far as is known here
    assert value(kept, round_=2) == 1


def test_what_a_part_remembers_is_its_owners_alone(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.stage("own", 1, vectors(1))
    kept.stage("other", 1, vectors(1))
    kept.counted("own")
    kept.committed(1)
    rights = {path.name: path.stat().st_mode & 0o077 for path in tmp_path.glob("*/*")}
    assert rights == {"own.safetensors": 0, "other.staged.safetensors": 0}


def test_a_commit_may_be_heard_before_the_update_is_known_to_count(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 1, vectors(1))
    kept.committed(1)
    assert value(kept) is None
    kept.counted("own")
    assert value(kept) == 1


def test_work_done_twice_starts_from_the_same_memory(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 1, vectors(1))
    kept.counted("own")
    kept.committed(1)
    for again in (2, 3):
        kept.stage("own", 2, vectors(again))
        assert value(kept, round_=2) == 1
    kept.counted("own")
    kept.committed(2)
    assert value(kept, round_=2) == 3


def test_an_update_made_anew_after_a_round_was_given_up_must_count_anew(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 1, vectors(1))
    kept.counted("own")
    kept.stage("own", 1, vectors(2))
    kept.committed(1)
    assert value(kept) is None


def test_work_of_a_later_round_tells_that_an_update_without_an_answer_counted(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 3, vectors(3))
    assert value(kept, round_=3) is None
    assert value(kept, round_=4) == 3
    assert value(kept, round_=5) == 3


def test_the_last_round_that_counted_decides_over_all_that_was_heard(folder: Path | None) -> None:
    """Such as of a sum whose masks stayed on: it was taken in, and the round was made of other work."""
    kept = memory(folder)
    kept.stage("own", 3, vectors(3), told=True)
    kept.counted("own")
    kept.committed(3)
    assert value(kept, round_=3) is None  # its next attempt starts where this one did
    assert value(memory(folder), round_=3) is None
    assert (kept.of("own", 4, counted=3)["control"] == 3).all()
    kept.stage("own", 4, vectors(4), told=True)
    kept.counted("own")
    kept.committed(4)
    for again in (kept, memory(folder)) if folder else (kept,):
        assert (again.of("own", 5, counted=3)["control"] == 3).all()
        assert value(again, round_=6) == 3


def staged_steps(kept: Memory, *, durable: bool) -> None:
    """Exchanges 0, 1 and 2 of round 4, whose vectors are 40, 41 and 42."""
    for step in range(3):
        kept.stage("own", 4, vectors(40 + step), step, durable=durable)
        kept.counted("own")


def step_value(kept: Memory, round_: int, step: int) -> float | None:
    found = kept.of("own", round_, step)
    return float(found["control"][0]) if found else None


def test_an_exchange_starts_from_the_one_before_it_and_may_be_made_again(folder: Path | None) -> None:
    kept = memory(folder)
    staged_steps(kept, durable=False)
    assert step_value(kept, 4, 3) == 42
    assert step_value(kept, 4, 2) == 41  # made again
    kept.stage("own", 4, vectors(7), 2, durable=False)
    assert step_value(kept, 4, 3) == 7
    kept.refused("own")
    assert step_value(kept, 4, 3) == 41


def test_a_round_of_exchanges_that_is_given_up_leaves_nothing(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 3, vectors(3), durable=False)
    kept.counted("own")
    kept.committed(3)
    staged_steps(kept, durable=False)
    assert step_value(kept, 4, 0) == 3  # begun anew
    kept.stage("own", 4, vectors(8), 0, durable=False)
    assert step_value(kept, 4, 1) == 8
    assert step_value(kept, 5, 0) == 8


def test_what_is_not_durable_is_on_disk_once_its_round_is_committed(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    staged_steps(kept, durable=False)
    assert step_value(memory(tmp_path), 5, 0) is None
    kept.committed(4)
    assert step_value(memory(tmp_path), 5, 0) == 42
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["own.safetensors"]


def test_an_update_that_was_refused_is_forgotten(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 3, vectors(3))
    kept.refused("own")
    kept.committed(3)
    assert value(kept, round_=4) is None
    if folder:
        assert value(memory(folder), round_=4) is None


def test_parts_have_memories_of_their_own(folder: Path | None) -> None:
    kept = memory(folder)
    for number, part in enumerate(("own", "shard-00001"), start=1):
        kept.stage(part, 1, vectors(number))
        kept.counted(part)
    kept.committed(1)
    assert (value(kept, "own"), value(kept, "shard-00001"), value(kept, "shard-00002")) == (1, 2, None)


def test_another_run_begins_with_nothing_and_the_same_one_goes_on(folder: Path | None) -> None:
    kept = memory(folder)
    kept.stage("own", 1, vectors(1))
    kept.counted("own")
    kept.committed(1)
    kept.begin("run-1")
    assert value(kept) == 1
    kept.begin("run-2")
    assert value(kept) is None
    kept.stage("own", 1, vectors(7))
    kept.counted("own")
    assert value(kept) is None  # the commit was the other run's
    kept.begin("run-1")
    assert value(kept) == (1 if folder else None)


def test_a_new_process_finds_what_was_committed_and_what_was_staged(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.stage("own", 1, vectors(1))
    kept.counted("own")
    kept.committed(1)
    kept.stage("own", 2, vectors(2))
    assert value(memory(tmp_path), round_=2) == 1  # round 2 is still open: the work is done again
    again = memory(tmp_path)
    assert value(again, round_=3) == 2
    assert value(memory(tmp_path), round_=3) == 2
    assert value(memory(tmp_path), round_=2) == 2  # it is the memory now, whatever comes
    assert value(memory()) is None


def test_nothing_half_written_is_read(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.stage("own", 1, vectors(1))
    [staged] = tmp_path.rglob("*.safetensors")
    staged.with_name(staged.name + ".partial").write_bytes(b"half")
    assert value(memory(tmp_path), round_=2) == 1


def test_a_damaged_file_says_which_one_to_delete(tmp_path: Path) -> None:
    kept = memory(tmp_path)
    kept.stage("own", 1, vectors(1))
    kept.counted("own")
    kept.committed(1)
    [path] = tmp_path.rglob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ConfigError) as caught:
        memory(tmp_path).of("own", 2)
    assert str(caught.value).startswith(f"--state-dir: {path} can't be read: ")
    assert str(caught.value).endswith("; delete it to start afresh")
    path.unlink()
    assert value(memory(tmp_path), round_=2) is None


@pytest.mark.parametrize("part", ["../../out", "..", "/etc/out", "a/b", "a\\b"])
@pytest.mark.parametrize("run", ["../out", "..", "/out", "run/../.."])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, run: str, part: str) -> None:
    kept = memory(tmp_path / "state", run)
    kept.stage(part, 1, vectors(1))
    kept.counted(part)
    kept.committed(1)
    assert value(memory(tmp_path / "state", run), part, 2) == 1
    [path] = (path for path in tmp_path.rglob("*") if path.is_file())
    assert path.parent.parent == tmp_path / "state"
    assert path.resolve() == path


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "taken"
    place.write_text("a file")
    with pytest.raises(ConfigError, match=r"^--state-dir: can't write .*own\.staged\.safetensors: "):
        memory(place).stage("own", 1, vectors(1))
    with pytest.raises(ConfigError, match=r"^--state-dir: can't write to .*taken: "), alone_in(place):
        pass


def test_a_folder_serves_one_learner_at_a_time(tmp_path: Path) -> None:
    place = tmp_path / "new"
    with alone_in(place):
        with (
            pytest.raises(ConfigError, match=r"another learner uses .*new; give each learner its own"),
            alone_in(place),
        ):
            pass
        with alone_in(tmp_path / "other"), alone_in(None):
            pass
    with alone_in(place):
        pass
