"""What records answer: the same in words, JSON and CSV, quickly for many rows, and errors that say what to give."""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from leader import events
from leader.services.record.followers import Followers
from leader.services.record.writer import Record
from scripts.history import QUERIES, ask, main
from tests.leader.services.record.test_writer import STARTED, A, B, applied, committed, update


def filled(folder: Path, rounds: int = 2, more: tuple[events.Event, ...] = ()) -> Path:
    """A run in which b is in last, and a is refused in the last round."""
    folder.mkdir()
    path = folder / "metadata.sqlite"
    record = Record(path, Followers(path, []), clock=lambda: 1_000_000.0)
    for event in (STARTED, A, B):
        record.on_event(event)
    for number in range(1, rounds + 1):
        record.on_event(events.Evaluated(number - 1, {"accuracy": 0.5}, 0.1))
        record.on_event(update(2, number, seconds=0.8, bytes=300))
        if number < rounds:
            record.on_event(update(1, number))
        else:
            record.on_event(events.CallRefused(1, "no", "AccumulateGradients", "PayloadError"))
        record.on_event(applied(number))
        record.on_event(committed(number))
    record.close()
    return folder


def answer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *words: object
) -> tuple[int, str]:
    monkeypatch.setattr(sys, "argv", ["history", *map(str, words)])
    code = main()
    shown = capsys.readouterr()
    return code, shown.out or shown.err


def test_each_query_says_who_did_what(tmp_path: Path) -> None:
    run = str(filled(tmp_path / "run"))
    ((runs,), rounds) = ask(QUERIES["runs"], run), ask(QUERIES["rounds"], run)
    assert (runs["run"], runs["rounds"], runs["seconds"], runs["bytes_up"]) == ("run-1", 2, 2.0, 400)
    assert [(row["round"], row["committed"], row["score"]) for row in rounds] == [
        (1, "1970-01-12 13:46:40", "test_accuracy 0.5"),
        (2, "1970-01-12 13:46:40", None),
    ]
    who = ask(QUERIES["who"], run, "a")
    assert [(row["round"], row["outcome"], row["wait_s"], row["share"]) for row in who] == [
        (1, "counted", 0.5, 0.5),
        (2, "refused", 0.0, 0.0),
    ]
    slow = ask(QUERIES["slow"], run)
    assert [(row["learner"], row["last_in"], row["mean_wait_s"], row["missed"]) for row in slow] == [
        ("b", 2, pytest.approx(0.8), 0),
        ("a", 0, 0.5, 1),
    ]
    sent = ask(QUERIES["bytes"], run)
    assert [(row["learner"], row["bytes"], row["rounds"]) for row in sent] == [("b", 600, 2), ("a", 100, 1)]
    assert sum(row["share"] for row in sent) == pytest.approx(1.0)


def test_json_and_csv_hold_what_the_table_shows_and_a_folder_of_runs_all_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path / "one")
    filled(tmp_path / "two", rounds=3)
    _, text = answer(capsys, monkeypatch, "bytes", tmp_path, "--json")
    listed = json.loads(text)
    assert [row["bytes"] for row in listed] == [600, 100, 900, 200]
    _, text = answer(capsys, monkeypatch, "bytes", "--csv", tmp_path)
    table: list[dict[str, Any]] = list(csv.DictReader(text.splitlines()))
    assert [{name: str(value) for name, value in row.items()} for row in listed] == table
    _, text = answer(capsys, monkeypatch, "who", "b", tmp_path / "one")
    assert text.splitlines()[0].split() == ["run", "run-1"]
    assert "300 B" in text
    assert "80.0%" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["runs", "nowhere"], "no run with a record there (metadata.sqlite)"),
        (["runs", "broken"], "file is not a database"),
        (["who", "zoe", "run"], "nothing is recorded of learner zoe there yet"),
        (["who", "zoe"], "give the learner, then the folder of a run"),
        (["fast", "run"], "invalid choice"),
        (["runs", "mongodb://ann:hunter2@127.0.0.1/x"], "there is a password in it"),
        (["runs", "mongodb://db.corp/x"], "add tls=true"),
        (["runs", "mongodb://ann:${NOWHERE}@127.0.0.1/x"], "${NOWHERE} is not set in the environment"),
        (["runs", "http://127.0.0.1/x"], "it must be mongodb://HOST:PORT/DATABASE"),
    ],
)
def test_what_can_not_be_answered_is_one_clear_line(
    words: list[str],
    said: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    filled(tmp_path / "run")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "metadata.sqlite").write_bytes(b"nothing that SQLite knows" * 99)
    code, text = answer(capsys, monkeypatch, *words)
    assert code == 2
    assert said in text
    assert "hunter2" not in text
    assert "Traceback" not in text


def test_many_participations_are_asked_quickly(tmp_path: Path) -> None:
    path = tmp_path / "metadata.sqlite"
    record = Record(path, Followers(path, []))
    record.on_event(STARTED)
    for number in range(1, 101):
        for learner in range(200):
            record.on_event(update(learner, number, seconds=learner / 200))
        record.on_event(applied(number))
        record.on_event(committed(number))
    record.close()
    for name, query in QUERIES.items():
        began = time.process_time()
        assert ask(query, str(tmp_path), "learner 7")
        assert time.process_time() - began < 0.5, name
