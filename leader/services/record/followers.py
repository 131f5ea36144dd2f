"""Followers: services that are sent a run's record, from where each of them is, whatever was down meanwhile."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from leader.services.record.file import Row, connect, rows_after, waiting

_log = logging.getLogger(__name__)
_BATCH = 500  # rows
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0
_CLOSING_PAUSE_S = 0.5
_CALL_S = 20.0  # that a call which is under way at the end may take
_REASON = 200  # characters


class Follower(Protocol):
    """A service that keeps rows of the record."""

    name: str  # as in the settings, such as "mongodb"

    def send(self, rows: Sequence[Row]) -> None:
        """Keep rows, each in the place of what has its key; any exception = not now, the same ones come again."""
        ...

    def close(self) -> None:
        """Let go of the connection."""
        ...


class ServiceState(NamedTuple):
    """How a service is, for the page and /metrics."""

    name: str
    up: bool | None  # whether it took what it was sent last; None before it was sent anything
    waiting: int  # rows that it does not have yet


@dataclass
class _Place:
    """Where one follower is."""

    follower: Follower
    seq: int = 0  # of the newest row that it has
    up: bool | None = None
    pause_s: float = 0.0  # until the next try; 0 while it is up
    again_at: float = 0.0
    caught_up: int = 0  # rows since it is back
    waiting: int = 0


class Followers:
    """Sends the record at `path` on, in one thread, a batch at a time; a service that is down is tried again.

    A follower's place in the record is kept in that file, so a later leader goes on from there.
    """

    def __init__(self, path: Path, followers: Sequence[Follower]) -> None:
        self._path = path
        self._places = [_Place(follower) for follower in followers]
        self._news = threading.Condition()
        self._is_news = False
        self._closing_at: float | None = None  # when to end, whatever waits
        self._thread = threading.Thread(target=self._run, name="followers", daemon=True)

    @property
    def states(self) -> tuple[ServiceState, ...]:
        """How each service is now."""
        return tuple(ServiceState(place.follower.name, place.up, place.waiting) for place in self._places)

    def tell(self) -> None:
        """There is something new in the record; called by one thread."""
        if not self._places:
            return
        if self._thread.ident is None:
            self._thread.start()
        with self._news:
            self._is_news = True
            self._news.notify()

    def close(self, wait_s: float) -> None:
        """Send what is left for so many seconds at most, and say what stays behind."""
        if not self._thread.is_alive():
            return
        with self._news:
            self._closing_at = time.monotonic() + wait_s
            self._news.notify()
        self._thread.join(wait_s + _CALL_S)
        for place in self._places:
            if place.waiting:
                _log.warning(
                    "%s does not have %d rows of this run yet; they are in %s: resume the run when it is there",
                    place.follower.name,
                    place.waiting,
                    self._path,
                )

    def abandon(self) -> None:
        """Send nothing more and say nothing, as where the process is killed; what is under way ends."""
        with self._news:
            self._closing_at = time.monotonic()
            self._news.notify()
        if self._thread.is_alive():
            self._thread.join(_CALL_S)

    def _run(self) -> None:
        database: sqlite3.Connection | None = None
        while True:
            try:
                database = database or self._open()
                self._send_all(database)
            except sqlite3.Error as error:  # the record says so itself
                _log.debug("followers can't read %s: %s", self._path, error)
            if self._is_over():
                break
            self._wait()
        for place in self._places:
            place.follower.close()
        if database is not None:
            with suppress(sqlite3.Error):
                self._count(database)  # of which the last rows may not have been seen
            database.close()

    def _open(self) -> sqlite3.Connection:
        database = connect(self._path, make=True)
        for place in self._places:
            asked = [place.follower.name]
            found = database.execute("SELECT seq FROM cursors WHERE follower = ?", asked).fetchone()
            place.seq = found[0] if found else 0
        return database

    def _count(self, database: sqlite3.Connection) -> None:
        for place in self._places:
            place.waiting = waiting(database, place.seq)

    def _is_over(self) -> bool:
        with self._news:
            if self._closing_at is None:
                return False
            if time.monotonic() >= self._closing_at:
                return True
            return not self._is_news and not any(place.waiting for place in self._places)

    def _wait(self) -> None:
        """Until there is news, or a service is to be tried again."""
        with self._news:
            if self._is_news:
                self._is_news = False
                return
            down = [place.again_at for place in self._places if place.pause_s]
            pause = max(0.0, min(down) - time.monotonic()) if down else None
            if self._closing_at is not None:
                pause = min(_CLOSING_PAUSE_S, max(0.0, self._closing_at - time.monotonic()))
            self._news.wait(pause)
            self._is_news = False

    def _send_all(self, database: sqlite3.Connection) -> None:
        self._count(database)
        for place in self._places:
            while place.waiting and self._is_due(place) and self._send(database, place):
                place.waiting = waiting(database, place.seq)

    def _is_due(self, place: _Place) -> bool:
        now = time.monotonic()
        return now >= place.again_at if self._closing_at is None else now < self._closing_at

    def _send(self, database: sqlite3.Connection, place: _Place) -> bool:
        """One batch; whether it is there."""
        rows = rows_after(database, place.seq, _BATCH)
        try:
            place.follower.send(rows)
        except Exception as error:
            self._failed(place, error)
            return False
        place.seq = rows[-1].seq
        database.execute("INSERT OR REPLACE INTO cursors VALUES (?, ?)", [place.follower.name, place.seq])
        if place.pause_s:
            place.caught_up += len(rows)
            if waiting(database, place.seq) == 0:
                _log.info("%s is back: %d rows caught up", place.follower.name, place.caught_up)
                place.pause_s, place.caught_up = 0.0, 0
        place.up = not place.pause_s
        return True

    def _failed(self, place: _Place, error: Exception) -> None:
        if not place.pause_s:
            told = f"{type(error).__name__}: {error}"[:_REASON]
            _log.warning(
                "%s is away (%s): the run goes on, rows for it wait in %s",
                place.follower.name,
                told,
                self._path,
            )
        place.up = False
        place.pause_s = min(max(_FIRST_PAUSE_S, 2 * place.pause_s), _LONGEST_PAUSE_S)
        place.again_at = time.monotonic() + place.pause_s
