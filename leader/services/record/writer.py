"""The record of a run: its events folded into metadata.sqlite, by a thread of its own."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue

from leader import events
from leader.events import Event, RoundCommitted
from leader.services.record.file import RecordFile, Value
from leader.services.record.fold import Between, Participation, finite
from leader.services.record.followers import Followers

_log = logging.getLogger(__name__)
_SETTLE_S = 1.0  # that a checkpoint waits for the record at most
_CLOSE_S = 10.0  # that the end of a run waits for the disk
_LAST_ROWS_S = 10.0  # and for services
_MOST_JOBS = 1000  # that wait for a disk; the oldest are given up
_MOST_BETWEEN = 1000  # rows that wait for the next round
_MOST_NAMES = 100_000  # of learners that an event may speak of

Job = Callable[[RecordFile], None]


class Record:
    """Event subscriber that writes the record, from RunStarted on; a disk that fails costs one line, never the run.

    Rows of a round are written before its checkpoint (`settle`) and count from its commit on, so that whenever
    the leader is killed, a resume finds each committed round there once. `untold` are events of the last round
    before a resume, which may have told them or not; None in a new run.
    """

    def __init__(
        self,
        path: Path,
        followers: Followers,
        *,
        untold: Sequence[Event] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.followers = followers
        self._path = path
        self._untold = untold
        self._clock = clock
        self._participation = Participation()
        self._between = Between()
        self._names: dict[int, str] = {}  # of learners, by number
        self._since: dict[str, float] = {}  # when those who are there came
        self._round = 0  # the last one committed
        self._abandoned = 0  # times that the open round was begun in vain
        self._jobs: SimpleQueue[Job | threading.Event | None] = SimpleQueue()
        writer = _Writer(path, self._jobs, followers.tell)
        self._thread = threading.Thread(target=writer.run, name="record", daemon=True)

    def settle(self) -> None:
        """Wait until what has happened is written, or can't be; never longer than a second."""
        if self._thread.is_alive():
            written = threading.Event()
            self._jobs.put(written)
            written.wait(_SETTLE_S)

    def close(self) -> None:
        """Write what is left, and wait for that; the record takes in nothing more."""
        if self._thread.is_alive():
            self._write_between()
            self._jobs.put(None)
            self._thread.join(_CLOSE_S)
            if self._thread.is_alive():
                _log.warning(
                    "the record %s misses the end of this run: its disk did not take it within %g s",
                    self._path,
                    _CLOSE_S,
                )
        self.followers.close(_LAST_ROWS_S)

    def abandon(self) -> None:
        """Write nothing more, as where the process is killed; what is under way ends."""
        with suppress(Empty):
            while True:
                if isinstance(job := self._jobs.get_nowait(), threading.Event):
                    job.set()
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join(_CLOSE_S)
        self.followers.abandon()

    def _started(self, event: events.RunStarted) -> None:
        now, self._round = self._clock(), event.resumed_round
        self._thread.start()
        if self._untold is not None:
            self._jobs.put(lambda file: file.resume(event.resumed_round, now))
        self._jobs.put(lambda file: file.put("run", _facts(event)))
        for untold in self._untold or ():
            self._recall(untold)

    def _recall(self, event: Event) -> None:
        now = self._clock()
        if isinstance(event, RoundCommitted):
            self._jobs.put(lambda file: None if file.has_round(event.round) else _commit(file, event, 0, now))
        else:
            self.on_event(event)

    def on_event(self, event: Event) -> None:
        """Take in what happened."""
        match event:
            case events.UpdateAccepted():
                self._participation.add(self._name(event.learner_id), event)
            case events.UpdatesLost():
                for part in event.parts:
                    self._participation.lost(part)
            case events.StepApplied() if event.step == event.steps - 1:
                self._participation.summed(event.step, event.parts)
                rows = tuple(self._participation.rows(event.round))  # which goes on while they are written
                self._jobs.put(lambda file: _participate(file, rows))
            case RoundCommitted():
                self._committed(event)
            case events.RoundAbandoned():
                self._abandoned += 1
                self._participation = Participation()
            case events.RunStarted():
                self._started(event)
            case events.Evaluated() | events.FederatedEvaluated():
                self._between.evaluated(event)
                self._write_between()
            case events.RunFinished():
                self._finished(event)
            case _:
                self._of_learners(event)

    def _of_learners(self, event: Event) -> None:
        match event:
            case events.LearnerJoined():
                now = self._clock()
                self._names[event.learner_id] = event.name
                if len(self._names) > _MOST_NAMES:
                    del self._names[next(iter(self._names))]
                self._since[event.name] = now
                self._between.joined(event, now)
            case events.LearnerLeft():
                self._participation.missing(event.name, "left")
                self._left(event.name, event.reason)
            case events.LearnerOverdue():
                self._participation.missing(event.name, "overdue")
            case events.CallRefused():
                name = "" if event.learner_id is None else self._name(event.learner_id)
                if name:
                    self._participation.missing(name, "refused")
                self._between.refused(event, name, self._round)
            case _:
                return
        if len(self._between) > _MOST_BETWEEN:
            self._write_between()

    def _name(self, learner_id: int) -> str:
        return self._names.get(learner_id, f"learner {learner_id}")

    def _left(self, name: str, reason: str) -> None:
        now = self._clock()
        self._between.left(name, self._since.pop(name, now), now, reason)

    def _finished(self, event: events.RunFinished) -> None:
        for name in list(self._since):
            self._left(name, "the run ended")
        ended: list[tuple[Value, ...]] = [
            ("finished_round", event.round),
            ("stopped", event.reason or event.stopped_early),
        ]
        self._jobs.put(lambda file: file.put("run", ended))
        self._write_between()

    def _committed(self, event: RoundCommitted) -> None:
        abandoned, now = self._abandoned, self._clock()
        self._round, self._abandoned, self._participation = event.round, 0, Participation()
        self._write_between()
        self._jobs.put(lambda file: _commit(file, event, abandoned, now))

    def _write_between(self) -> None:
        if between := self._between if len(self._between) else None:
            self._between = Between()
            self._jobs.put(lambda file: _come_and_gone(file, between))


class _Writer:
    """The thread's part: jobs in order, each in a transaction of its own and tried again while the disk fails."""

    def __init__(
        self, path: Path, jobs: SimpleQueue[Job | threading.Event | None], on_written: Callable[[], None]
    ) -> None:
        self._path = path
        self._jobs = jobs
        self._on_written = on_written
        self._file: RecordFile | None = None
        self._owed: deque[Job] = deque(maxlen=_MOST_JOBS)
        self._failed = False

    def run(self) -> None:
        """Until None comes."""
        while (job := self._jobs.get()) is not None:
            if isinstance(job, threading.Event):
                job.set()
                continue
            self._owed.append(job)
            self._write()
        if self._file is not None:
            self._file.close()

    def _write(self) -> None:
        try:
            self._file = self._file or RecordFile(self._path)
            while self._owed:
                try:
                    with self._file:
                        self._owed[0](self._file)
                except (OverflowError, sqlite3.ProgrammingError, sqlite3.InterfaceError):  # no disk's fault
                    _log.exception("part of the record %s can't be kept", self._path)
                self._owed.popleft()
        except sqlite3.Error as error:
            if not self._failed:
                _log.warning(
                    "the record %s can't be written (%s): the run goes on, what it misses is written when that works "
                    "again; free the disk or fix the folder",
                    self._path,
                    error,
                )
            self._failed = True
            return
        if self._failed:
            _log.info("the record %s is written again", self._path)
        self._failed = False
        self._on_written()


def _participate(file: RecordFile, rows: Iterable[tuple[Value, ...]]) -> None:
    file.drop_open_round()
    file.put("participation", rows, final=False)


def _commit(file: RecordFile, event: RoundCommitted, abandoned: int, now: float) -> None:
    numbers = (event.seconds, finite(event.loss), event.lr, event.bytes_up, event.bytes_down)
    row = (event.round, now, *numbers, event.learners, event.examples, abandoned, finite(event.epsilon))
    file.put("rounds", [row])
    file.commit_round(now)


def _come_and_gone(file: RecordFile, between: Between) -> None:
    file.learners(between.learners.values())
    file.put("sessions", between.sessions.values())
    for name, _, until, _ in between.sessions.values():
        if until is not None:
            file.seen(name, until)
    file.refusals(between.refusals.values())
    file.put("scores", between.scores.values())
    file.trim()


def _facts(event: events.RunStarted) -> list[tuple[Value, ...]]:
    told = ("run_id", "dataset", "model", "parameters", "exchange", "rounds", "learners")
    return [(name, getattr(event, name)) for name in told]
