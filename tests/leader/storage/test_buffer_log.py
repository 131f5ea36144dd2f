from __future__ import annotations

from pathlib import Path

import pytest

from leader.rounds.script import Happened
from leader.storage.buffer_log import BufferLog
from utils.errors import CheckpointError

BEGUN = Happened("begun")
FIRST = [
    Happened("given", "own-a", 0),
    Happened("given", "b", 3),
    Happened("counted", "b", 3),
    Happened("closed"),
]
SECOND = [Happened("counted", "own-a", 0)]


def written(path: Path) -> BufferLog:
    log = BufferLog(path, 0)
    for number, told in ((1, FIRST), (2, SECOND)):
        for one in (BEGUN, *told):
            log.note(number, one)
    log.sync()
    return log


def test_the_next_process_knows_what_happened_after_the_last_commit(tmp_path: Path) -> None:
    written(tmp_path / "log")
    log = BufferLog(tmp_path / "log", 0)
    assert [log.script(number) for number in (1, 2, 3)] == [FIRST, SECOND, None]
    assert log.script(1) is None
    later = BufferLog(tmp_path / "log", 1)
    assert [later.script(number) for number in (1, 2)] == [None, SECOND]


def test_a_round_that_begins_anew_voids_what_was_told_of_it_and_of_later_ones(tmp_path: Path) -> None:
    written(tmp_path / "log").note(1, BEGUN)
    log = BufferLog(tmp_path / "log", 0)
    log.note(1, SECOND[0])
    assert [BufferLog(tmp_path / "log", 0).script(number) for number in (1, 2)] == [SECOND, None]


@pytest.mark.parametrize(
    "tail", [b'{"round":2,"wh', b'{"round":2,"what":"eaten"}\n{"round":2,"what":"closed"}\n']
)
def test_what_is_cut_off_or_damaged_is_left_out(tmp_path: Path, tail: bytes) -> None:
    path = tmp_path / "log"
    written(path)
    sound = path.read_bytes()
    path.write_bytes(sound + tail)
    log = BufferLog(path, 0)
    assert path.read_bytes() == sound
    log.note(2, FIRST[0])
    assert BufferLog(path, 1).script(2) == [*SECOND, FIRST[0]]


def test_a_script_that_is_given_up_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(tmp_path / "log")
    log = BufferLog(tmp_path / "log", 0)
    log.script(1)
    log.note(1, BEGUN)
    log.note(1, BEGUN)
    assert [record.message[:41] for record in caplog.records] == ["round 1 can't be filled as before the res"]
    assert log.script(2) is None


def test_a_log_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    log = BufferLog(tmp_path / "gone" / "log", 0)
    with pytest.raises(
        CheckpointError, match=r"can't write .*log: No such file or directory; free the disk or fix"
    ):
        log.note(1, BEGUN)
