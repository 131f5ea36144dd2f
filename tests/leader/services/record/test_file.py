"""Rows are followed in the order of their numbers, and none is passed over."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

from leader.services.record.file import TABLES, RecordFile, connect, rows_after


class Interrupted:
    """A connection beside which rows are written before it reads the table `scores`."""

    def __init__(self, database: sqlite3.Connection, write: Callable[[], None]) -> None:
        self._database = database
        self._write = write

    def execute(self, asked: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        if "FROM scores" in asked:
            self._write()
        return self._database.execute(asked, values)


def test_a_row_that_is_written_while_a_batch_is_read_comes_with_the_next_one(tmp_path: Path) -> None:
    assert list(TABLES).index("rounds") < list(TABLES).index("scores")
    file = RecordFile(tmp_path / "record")
    file.put("run", [("model", "tiny")])

    def write() -> None:
        with file:
            file.put("run", [("dataset", "noise")])
            file.put("scores", [(1, "accuracy", 0.5)])

    with closing(connect(tmp_path / "record", make=True)) as database:
        first = rows_after(cast(sqlite3.Connection, Interrupted(database, write)), 0, 100)
        then = rows_after(database, first[-1].seq, 100)
    file.close()
    assert [row.seq for row in first + then] == [1, 2, 3]
    assert [row.table for row in first + then] == ["run", "run", "scores"]


def test_sessions_that_a_resume_ends_are_all_followed_however_small_the_batches(tmp_path: Path) -> None:
    file = RecordFile(tmp_path / "record")
    file.put("sessions", [(name, 1.0, None, "") for name in "abc"])
    file.resume(0, 2.0)
    with closing(connect(tmp_path / "record", make=True)) as database:
        told, seq = [], 3  # who follows has all that was before
        while batch := rows_after(database, seq, 2):
            told += [(row.values["learner"], row.values["until"]) for row in batch if row.table == "sessions"]
            seq = batch[-1].seq
    file.close()
    assert told == [("a", 2.0), ("b", 2.0), ("c", 2.0)]
