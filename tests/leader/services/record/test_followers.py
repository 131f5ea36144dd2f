"""Followers of a record: from where each of them is, whatever was down, and with one line for an outage."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from leader.services.record.file import Row
from leader.services.record.followers import Followers, ServiceState
from leader.services.record.writer import Record
from tests.leader.services.record.test_writer import STARTED, A, applied, committed, update

TIMEOUT_S = 20.0


class Shelf:
    """A follower that keeps rows by key, and is away while `away` is set."""

    name = "shelf"

    def __init__(self) -> None:
        self.kept: dict[str, Row] = {}
        self.sent = 0
        self.away = False
        self.tried = threading.Event()
        self.has_round: dict[int, threading.Event] = {n: threading.Event() for n in range(1, 9)}

    def send(self, rows: Sequence[Row]) -> None:
        away = self.away
        self.tried.set()
        if away:  # also where it came back since
            raise ConnectionError("nobody there")
        for row in rows:
            self.kept[f"{row.table}:{row.key}"] = row
            self.sent += 1
            if row.table == "rounds":
                self.has_round[int(row.values["round"] or 0)].set()

    def close(self) -> None:
        pass

    @property
    def rounds(self) -> list[str]:
        return sorted(key for key in self.kept if key.startswith(("rounds:", "participation:")))


def round_(record: Record, number: int) -> None:
    for event in (update(1, number), applied(number), committed(number)):
        record.on_event(event)


def test_rows_reach_a_follower_while_the_run_goes_on_and_none_of_an_open_round(tmp_path: Path) -> None:
    shelf = Shelf()
    record = Record(tmp_path / "r.sqlite", Followers(tmp_path / "r.sqlite", [shelf]))
    assert record.followers.states == (("shelf", None, 0),)  # nobody knows yet whether it is there
    record.on_event(STARTED)
    record.on_event(A)
    round_(record, 1)
    assert shelf.has_round[1].wait(TIMEOUT_S)
    for event in (update(1, 2), applied(2)):
        record.on_event(event)
    record.close()
    assert shelf.rounds == ["participation:1:a", "rounds:1"]
    assert record.followers.states == (ServiceState("shelf", True, 0),)


def test_an_outage_is_two_lines_and_everything_is_there_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf = Shelf()
    shelf.away = True
    path = tmp_path / "r.sqlite"
    record = Record(path, Followers(path, [shelf]))
    with caplog.at_level(logging.INFO, "leader.services.record.followers"):
        for event in (STARTED, A):
            record.on_event(event)
        for number in (1, 2, 3):
            round_(record, number)
        assert shelf.tried.wait(TIMEOUT_S)
        record.settle()
        shelf.away = False
        record.close()
    assert shelf.rounds == [f"participation:{n}:a" for n in (1, 2, 3)] + [f"rounds:{n}" for n in (1, 2, 3)]
    away, back = (entry.getMessage() for entry in caplog.records)
    assert (
        away == f"shelf is away (ConnectionError: nobody there): the run goes on, rows for it wait in {path}"
    )
    assert back.startswith("shelf is back: ")


def test_what_stays_behind_is_told_and_a_later_leader_sends_that_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("leader.services.record.writer._LAST_ROWS_S", 0.2)
    path, shelf = tmp_path / "r.sqlite", Shelf()
    record = Record(path, Followers(path, [shelf]))
    for event in (STARTED, A):
        record.on_event(event)
    round_(record, 1)
    assert shelf.has_round[1].wait(TIMEOUT_S)
    record.settle()
    shelf.away = True
    shelf.tried.clear()
    round_(record, 2)
    assert shelf.tried.wait(TIMEOUT_S)
    record.close()
    assert f"they are in {path}: resume the run when it is there" in caplog.text
    ((_, up, waiting),) = record.followers.states
    assert not up
    assert waiting >= 2
    assert "rounds:2" not in shelf.kept

    later, sent = Shelf(), []
    followers = Followers(path, [later])
    followers.tell()
    assert later.has_round[2].wait(TIMEOUT_S)
    followers.close(TIMEOUT_S)
    sent = later.rounds
    assert sent == ["participation:2:a", "rounds:2"]


def test_rows_written_just_before_the_end_are_sent_though_the_thread_was_done_with_all_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, shelf = tmp_path / "r.sqlite", Shelf()
    followers = Followers(path, [shelf])
    record, is_over, closing = Record(path, followers), followers._is_over, threading.Event()

    def once_it_closes() -> bool:
        if 1 in {int(row.values["round"] or 0) for row in shelf.kept.values() if row.table == "rounds"}:
            assert closing.wait(TIMEOUT_S)
        return is_over()

    monkeypatch.setattr(followers, "_is_over", once_it_closes)
    for event in (STARTED, A):
        record.on_event(event)
    round_(record, 1)
    assert shelf.has_round[1].wait(TIMEOUT_S)
    round_(record, 2)
    record.settle()
    closer = threading.Thread(target=record.close)
    closer.start()
    while followers._closing_at is None:
        closer.join(0.001)
    closing.set()
    closer.join(TIMEOUT_S)
    assert shelf.rounds == [f"participation:{n}:a" for n in (1, 2)] + [f"rounds:{n}" for n in (1, 2)]


def test_without_followers_no_thread_is_started(tmp_path: Path) -> None:
    before = threading.active_count()
    followers = Followers(tmp_path / "r.sqlite", [])
    followers.tell()
    followers.close(TIMEOUT_S)
    assert threading.active_count() == before
    assert not (tmp_path / "r.sqlite").exists()
