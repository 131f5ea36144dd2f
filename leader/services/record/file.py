"""metadata.sqlite: what a run leaves for questions asked later, and the rows of it that others follow."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

Value = str | int | float | None

#: Columns by table; the first ones, as many as KEYS says, are what a row is known by.
TABLES: Mapping[str, Sequence[str]] = {
    "run": ("key", "value"),
    "learners": ("name", "device", "control", "own_examples", "first_seen", "last_seen"),
    "rounds": (
        "round",
        "committed_at",  # unix seconds
        "seconds",
        "loss",
        "lr",
        "bytes_up",
        "bytes_down",
        "learners",
        "examples",
        "abandoned",  # times that it was begun in vain
        "epsilon",
    ),
    "participation": (
        "round",
        "learner",
        "updates",
        "examples",
        "bytes",
        "wait_s",  # from work given out to update in; of several parts the longest, of several steps the sum
        "train_images_per_s",
        "loss",
        "outcome",  # counted, overdue, refused or left
        "committed_at",
    ),
    "scores": ("round", "metric", "value"),
    "refusals": ("round", "learner", "method", "kind", "count", "reason"),  # round: the last one committed
    "sessions": ("learner", "since", "until", "reason"),
}
KEYS: Mapping[str, int] = {
    "run": 1,
    "learners": 1,
    "rounds": 1,
    "participation": 2,
    "scores": 2,
    "refusals": 4,
    "sessions": 2,
}
#: What is not bounded by the number of rounds: of these only the newest rows are kept.
_MOST_ROWS = {"learners": 100_000, "sessions": 100_000, "refusals": 100_000}
RESUMED = "resumed after round, "  # begins the key that a resume leaves in `run`


@dataclass(frozen=True)
class Row:
    """A row as it was when it was written with number `seq`; a later one with the same key is in its place."""

    seq: int
    table: str
    values: Mapping[str, Value]  # by column

    @property
    def key(self) -> str:
        """What it is known by within its run and table, such as 3:alice."""
        return ":".join(str(self.values[name]) for name in TABLES[self.table][: KEYS[self.table]])


def connect(path: Path, *, make: bool = False) -> sqlite3.Connection:
    """Open a record, and `make` what is missing of it; raises sqlite3.Error."""
    if not make:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
    database = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=NORMAL")
    for table, columns in TABLES.items():
        key = ", ".join(columns[: KEYS[table]])
        database.execute(
            f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(columns)}, seq INTEGER, PRIMARY KEY ({key}))"
        )
        database.execute(f"CREATE INDEX IF NOT EXISTS {table}_seq ON {table} (seq)")
    database.execute("CREATE INDEX IF NOT EXISTS participation_learner ON participation (learner, round)")
    database.execute("CREATE TABLE IF NOT EXISTS cursors (follower PRIMARY KEY, seq INTEGER NOT NULL)")
    return database


class RecordFile:
    """One run's record, open for writing by one thread; all raise sqlite3.Error.

    Rows of a round that is not committed yet have no `seq`: nobody follows them, and a resume settles what
    becomes of them.
    """

    def __init__(self, path: Path) -> None:
        self._database = connect(path, make=True)
        tables = [*TABLES, "cursors"]
        newest = " UNION ALL ".join(f"SELECT max(seq) AS seq FROM {table}" for table in tables)
        self._seq: int = self._database.execute(f"SELECT max(seq) FROM ({newest})").fetchone()[0] or 0

    def resume(self, round_: int, now: float) -> None:
        """Go on after committed round `round_`: what is of later ones goes, and what is of it counts."""
        for table in ("rounds", "participation", "scores", "refusals"):
            self._database.execute(f"DELETE FROM {table} WHERE round > ?", [round_])
        self.commit_round(now)
        open_ = self._database.execute("SELECT rowid FROM sessions WHERE until IS NULL").fetchall()
        self._database.executemany(
            "UPDATE sessions SET until = ?, reason = 'the leader ended', seq = ? WHERE rowid = ?",
            [(now, self._next(), rowid) for (rowid,) in open_],
        )
        self.put("run", [(f"{RESUMED}{self._seq + 1}", round_)])

    def put(self, table: str, rows: Iterable[Sequence[Value]], *, final: bool = True) -> None:
        """Write rows, each in the place of the one with its key; they are followed once they are `final`."""
        marks = ", ".join("?" * (len(TABLES[table]) + 1))
        numbered = ([*row, self._next() if final else None] for row in rows)
        self._database.executemany(f"INSERT OR REPLACE INTO {table} VALUES ({marks})", numbered)

    def learners(self, rows: Iterable[Sequence[Value]]) -> None:
        """Write learners, who were first seen when they were."""
        for name, device, control, own_examples, first_seen, last_seen in rows:
            found = self._database.execute(
                "SELECT first_seen FROM learners WHERE name = ?", [name]
            ).fetchone()
            first = found[0] if found else first_seen
            self.put("learners", [(name, device, control, own_examples, first, last_seen)])

    def refusals(self, rows: Iterable[Sequence[Value]]) -> None:
        """Count refused calls, with those of the same kind that are there already."""
        for *key, count, reason in rows:
            asked = "SELECT count FROM refusals WHERE round = ? AND learner = ? AND method = ? AND kind = ?"
            found = self._database.execute(asked, key).fetchone()
            self.put("refusals", [(*key, (found[0] if found else 0) + int(count or 0), reason)])

    def seen(self, name: Value, now: Value) -> None:
        """A learner was there until `now`."""
        changed = "UPDATE learners SET last_seen = ?, seq = ? WHERE name = ?"
        self._database.execute(changed, [now, self._next(), name])

    def has_round(self, round_: int) -> bool:
        """Whether a committed round is there."""
        found = self._database.execute("SELECT 1 FROM rounds WHERE round = ?", [round_]).fetchone()
        return found is not None

    def drop_open_round(self) -> None:
        """Forget what was written of a round that is not committed."""
        self._database.execute("DELETE FROM participation WHERE seq IS NULL")

    def commit_round(self, now: float) -> None:
        """What learners did in the round that was written last now counts."""
        pending = self._database.execute("SELECT rowid FROM participation WHERE seq IS NULL").fetchall()
        self._database.executemany(
            "UPDATE participation SET seq = ?, committed_at = ? WHERE rowid = ?",
            [(self._next(), now, rowid) for (rowid,) in pending],
        )

    def trim(self) -> None:
        """Let go of the oldest rows of what callers could make any number of."""
        for table, most in _MOST_ROWS.items():
            self._database.execute(
                f"DELETE FROM {table} WHERE seq <= (SELECT seq FROM {table} ORDER BY seq DESC LIMIT 1 OFFSET ?)",
                [most],
            )

    def __enter__(self) -> None:
        self._database.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._database.in_transaction:  # SQLite itself goes back where the disk is full
            self._database.execute("COMMIT" if kind is None else "ROLLBACK")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _next(self) -> int:
        self._seq += 1
        return self._seq


def rows_after(database: sqlite3.Connection, seq: int, most: int) -> list[Row]:
    """The `most` oldest rows that were written after number `seq`, in the order of their numbers; none is left out."""
    found = []
    # Of one moment: else a row might be missed in one table, and a later one found in the next.
    database.execute("BEGIN")
    try:
        for table, columns in TABLES.items():
            chosen = f"SELECT seq, {', '.join(columns)} FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?"
            for number, *values in database.execute(chosen, [seq, most]):
                found.append(Row(number, table, dict(zip(columns, values, strict=True))))
    finally:
        database.execute("COMMIT")
    return sorted(found, key=lambda row: row.seq)[:most]


def waiting(database: sqlite3.Connection, seq: int) -> int:
    """How many rows were written after number `seq`."""
    counts = (f"SELECT count(*) AS n FROM {table} WHERE seq > {int(seq)}" for table in TABLES)
    total: int = database.execute(f"SELECT sum(n) FROM ({' UNION ALL '.join(counts)})").fetchone()[0]
    return total
