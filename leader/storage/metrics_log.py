"""metrics.jsonl: a line a committed round."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, FiniteFloat, ValidationError

from leader.events import Evaluated, EvaluationSkipped, Event, FederatedEvaluated, RoundCommitted
from leader.metric_names import on_test_split
from leader.storage.run_folder import RunFolder
from leader.storage.saved_state import Count, Scores, Seconds, in_words
from utils.console import printable
from utils.errors import ConfigError
from utils.files import replace_file

Record = dict[str, Any]  # one line of metrics.jsonl; a value that is not finite is None

TEST, FEDERATED = "test", "federated"  # the evaluations that a line may wait for


class _Line(BaseModel):
    """What a line must have for what is made of all of them at the end, and what else it may have."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Count | FiniteFloat | None]

    round: Count
    loss: FiniteFloat | None
    seconds: Seconds
    bytes_up: Count
    bytes_down: Count
    learners: Count
    federated: Scores = {}


class MetricsLog:
    """Event subscriber that writes metrics.jsonl, a line a committed round, in round order.

    A line waits for its round's evaluations: those that `awaited(round)` names, and the learners'
    scores at most until the next round is committed. Waiting lines are kept in a second small file,
    so that killing the leader loses none.
    On resume, rounds after `resumed_round` are dropped: they will be trained again.
    """

    def __init__(
        self,
        folder: RunFolder,
        resumed_round: int = 0,
        *,
        awaited: Callable[[int], Iterable[str]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._folder = folder
        self._awaited = awaited
        self._clock = clock
        self._records = read_records(folder, resumed_round)
        #: what each round that is not in metrics.jsonl yet waits for, in round order; a later one waits for it too
        self._waiting: dict[int, set[str]] = {}
        self._early: dict[int, Record] = {}  # evaluations that came before their round's commit
        self._rewrite()
        folder.pending_metrics.unlink(missing_ok=True)

    @property
    def records(self) -> list[Record]:
        """All committed rounds so far in round order, those that wait for an evaluation included."""
        return [dict(record) for record in self._records.values()]

    def on_event(self, event: Event) -> None:
        """Take in a commit or what became of an evaluation; a round seen before is ignored."""
        match event:
            case RoundCommitted() if event.round not in self._records:
                self._settle(event.round - 1, FEDERATED)
                self._add(event)
            case Evaluated():
                metrics = on_test_split(event.metrics)
                self._evaluated(event.round, TEST, {name: _finite(metrics[name]) for name in metrics})
            case FederatedEvaluated():
                self._evaluated(event.round, FEDERATED, {FEDERATED: event.scores})
            case EvaluationSkipped():
                self._settle(event.round, TEST)
            case _:
                return
        self._write_settled()

    def close(self) -> None:
        """Write the lines whose evaluation never came, without it."""
        self._waiting = {number: set() for number in self._waiting}
        self._write_settled()

    def _add(self, event: RoundCommitted) -> None:
        record = record_of(event, self._clock())
        waiting = set(self._awaited(event.round))
        if event.round in self._early:
            record |= self._early.pop(event.round)
            waiting.discard(TEST)
        self._waiting[event.round] = waiting
        self._records[event.round] = record

    def _settle(self, round_: int, kind: str) -> None:
        """The line of `round_` need not wait for this evaluation any longer."""
        self._waiting.get(round_, set()).discard(kind)

    def _evaluated(self, round_: int, kind: str, evaluation: Mapping[str, object]) -> None:
        record = self._records.get(round_)
        if record is None:
            if kind == TEST:  # the learners' scores come after the commit, or are of the initial weights
                self._early[round_] = dict(evaluation)
            return
        record.update(evaluation)
        self._settle(round_, kind)
        if round_ not in self._waiting:
            self._rewrite()

    def _write_settled(self) -> None:
        settled = list(takewhile(lambda number: not self._waiting[number], self._waiting))
        if settled:
            self._append(self._lines(settled))
        for number in settled:
            del self._waiting[number]
        if self._waiting:
            replace_file(self._folder.pending_metrics, self._lines(self._waiting), sync=False)
        else:
            self._folder.pending_metrics.unlink(missing_ok=True)

    def _append(self, lines: bytes) -> None:
        """Write them whole, or, where the disk is full, nothing of them: they are written with the next ones."""
        path = self._folder.metrics
        before = path.stat().st_size if path.exists() else 0
        try:
            with path.open("ab") as file:
                file.write(lines)
        except OSError:
            with suppress(OSError):
                os.truncate(path, before)
            raise

    def _rewrite(self) -> None:
        written = (number for number in self._records if number not in self._waiting)
        replace_file(self._folder.metrics, self._lines(written))

    def _lines(self, rounds: Iterable[int]) -> bytes:
        return "".join(
            json.dumps(self._records[number], allow_nan=False) + "\n" for number in rounds
        ).encode()


def record_of(event: RoundCommitted, now: float) -> Record:
    """The line of a round, committed at time.time() = `now`, before its evaluations."""
    return {
        "round": event.round,
        "loss": _finite(event.loss),
        "seconds": round(event.seconds, 6),
        "bytes_up": event.bytes_up,
        "bytes_down": event.bytes_down,
        "learners": event.learners,
        "examples": event.examples,
        "lr": event.lr,
        "time": round(now, 3),
        **({} if event.epsilon is None else {"epsilon": event.epsilon}),
    }


def _finite(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def read_records(folder: RunFolder, last_round: float = math.inf) -> dict[int, Record]:
    """The records of rounds up to `last_round`; a line cut off by a crash is passed over.

    Raises ConfigError, and OSError where a file can't be read.
    """
    by_round: dict[int, Record] = {}
    for path in (folder.pending_metrics, folder.metrics):
        with suppress(FileNotFoundError):  # the first of them comes and goes while a run writes
            by_round |= {record["round"]: record for record in _whole_records(path)}
    return {number: by_round[number] for number in sorted(by_round) if number <= last_round}


def _whole_records(path: Path) -> list[Record]:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            _Line.model_validate_json(line)
        except ValidationError as error:
            if number == len(lines):
                break
            raise ConfigError(
                f"{path} line {number} is not a record of a round ({printable(in_words(error))}); "
                "mend or remove that line"
            ) from error
        records.append(json.loads(line))
    return records
